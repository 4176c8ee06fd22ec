/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The short way for what most frames are: untagged unicast, whole, from a VF's default MAC to another
 * VF's, where nothing is asked of either but to let it pass.
 *
 * It decides nothing of its own: each condition is one of the general way's, and what doesn't meet
 * them all is left as it was for the general way. */
#ifndef VEB_PLAIN_H
#define VEB_PLAIN_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "veb.h"
#include "maps.h"
#include "frame.h"
#include "port.h"

/* Whether a frame without a tag that `from` sends comes to `to` without one: both in no VLAN, or
 * `to` strips what `from` inserts. */
static __always_inline int meet_untagged(const struct veb_port *from, const struct veb_port *to)
{
	if (!(from->flags & PORT_INSERT))
		return from->flags & to->flags & PORT_UNTAGGED;
	return to->flags & PORT_STRIP && to->tpid == from->tpid && has_vid(to->vlans, from->vid);
}

/* The verdict, or TC_ACT_UNSPEC: not plain. */
static __always_inline int plain(struct __sk_buff *skb, __u32 port, const struct veb_port *vf)
{
	const void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const __u32 busy = PORT_SHAPED | PORT_TX_MIRROR, open = PORT_UP | PORT_LOOPBACK;
	struct veb_counters *tx, *rx;
	const struct veb_port *to;
	__u32 type, to_port;
	__u64 src;

	if ((vf->flags & (open | busy)) != open)		/* Tx 1, 6, 7, 8 */
		return TC_ACT_UNSPEC;
	if (data + ETH_HLEN > end || skb->vlan_present || skb->gso_size)
		return TC_ACT_UNSPEC;
	src = mac_at(data + ETH_ALEN);
	type = ((const struct ethhdr *)data)->h_proto;
	if (is_tag(type) || type == bpf_htons(ETH_P_PAUSE))	/* Tx 4; 2 */
		return TC_ACT_UNSPEC;
	if (!src || src != mac_at(vf->mac))			/* Tx 2, 3 */
		return TC_ACT_UNSPEC;
	if (skb->len - ETH_HLEN > vf->mtu)			/* Tx 5 */
		return TC_ACT_UNSPEC;
	to = hinted(mac_at(data), &to_port);			/* a group is nobody's own MAC */
	if (!to || to_port == port || !meet_untagged(vf, to))	/* Rx 1, 2 */
		return TC_ACT_UNSPEC;
	if ((to->flags & (PORT_UP | PORT_RX_MIRROR | PORT_RX_LIMITED)) != PORT_UP)	/* Rx 1, 4, 5 */
		return TC_ACT_UNSPEC;
	tx = counters_of(port);
	rx = counters_of(to_port);
	if (!tx || !rx)
		return TC_ACT_UNSPEC;
	tx->tx_packets++;
	tx->tx_bytes += skb->len;
	rx->rx_packets++;
	rx->rx_bytes += skb->len;
	return leave(skb, to);
}

#endif
