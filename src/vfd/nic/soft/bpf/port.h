/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A port: its policy, its counters, what it owns, and the way out to it. */
#ifndef VEB_PORT_H
#define VEB_PORT_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "veb.h"
#include "maps.h"
#include "frame.h"

const volatile struct veb_options veb_options = {};

#define COUNT(c, counter, amount) do { if (c) (c)->counter += (amount); } while (0)

static __always_inline struct veb_counters *counters_of(__u32 port)
{
	return bpf_map_lookup_elem(&veb_counters, &port);
}

/* The policy of a port that is in force now. */
static __always_inline const struct veb_port *policy_of(__u32 port)
{
	__u8 *slot = bpf_map_lookup_elem(&veb_active, &port);
	__u32 at;

	if (!slot)
		return 0;
	at = port * VEB_SLOTS + (*slot & (VEB_SLOTS - 1));
	return bpf_map_lookup_elem(&veb_ports, &at);
}

static __always_inline int has_vid(const __u64 *vlans, __u32 vid)
{
	return !!(vlans[(vid >> 6) & 63] & (1ULL << (vid & 63)));
}

/* Is a tag of the VF's kind? */
static __always_inline int is_of_kind(const struct veb_port *vf, __u32 vlan)
{
	return (vf->tpid == ETH_P_8021AD) == !!(vlan & VEB_STAG);
}

/* Rx step 2; also: whether the VF is in the frame's VLAN. */
static __always_inline int passes_vlan_filter(const struct veb_port *vf, __u32 vlan)
{
	if (vlan == VEB_UNTAGGED)
		return vf->flags & PORT_UNTAGGED;
	if (!is_of_kind(vf, vlan) || (vlan & VEB_VEILED))
		return 0;
	if (!(vlan & 0xfff))
		return vf->flags & PORT_UNTAGGED;
	return has_vid(vf->vlans, vlan & 0xfff);
}

/* The owner of a MAC, or 0 (the wire owns none). VEB_NOBODY: it changes hands just now. */
static __always_inline __u32 owner_of(const union mac *mac)
{
	const volatile __u64 *found = bpf_map_lookup_elem(&veb_macs, &mac->as);
	union mac owner;
	__u32 port;

	if (!found)
		return 0;
	owner.num = *found;
	port = owner.as.port & MAC_PORT;
	owner.as.port = 0;
	return owner.num == mac->num ? port : VEB_NOBODY;
}

/* Where veb_hints may know a MAC: multiplicative hashing, Knuth, TAOCP vol. 3, 6.4. */
static __always_inline __u32 hint_of(__u64 mac)
{
	return mac * VEB_HINT_FACTOR >> VEB_HINT_SHIFT;
}

/* The VF whose default MAC this is, if the hint is right: port and policy. Else 0, and whether
 * somebody owns it is owner_of's to say. */
static __always_inline const struct veb_port *hinted(__u64 mac, __u32 *port)
{
	__u32 at = hint_of(mac);
	const __u16 *hint = bpf_map_lookup_elem(&veb_hints, &at);
	const struct veb_port *vf;

	if (!hint)
		return 0;
	*port = *hint;
	vf = policy_of(*port);
	/* MAC 0 is nobody's: it stands for none */
	return vf && mac && mac_at(vf->mac) == mac ? vf : 0;
}

/* The port behind a netdev, and its policy; 0: it is none. Guessed first, which costs no hash look-up:
 * the policy knows its netdev. */
static __always_inline const struct veb_port *port_of(__u32 ifindex, __u32 *port)
{
	const struct veb_port *vf;
	const __u32 *found;

	*port = ifindex - VEB_HOST_ENDS + 1;
	vf = policy_of(*port);
	if (likely(vf && vf->ifindex == ifindex))
		return vf;
	found = bpf_map_lookup_elem(&veb_ifaces, &ifindex);
	if (!found)
		return 0;
	*port = *found;
	return policy_of(*port);
}

#define NO_ROOM		1	/* NET_XMIT_DROP, include/linux/netdevice.h */

/* A copy of the frame into a port's queue: counted as given, or as dropped by max_rx_rate. */
static __always_inline void give_copy(struct __sk_buff *skb, const struct frame *f, __u32 port,
				      const struct veb_port *to)
{
	struct veb_counters *c = counters_of(port);
	long result = bpf_clone_redirect(skb, to->ifindex, 0);

	if (unlikely(to->flags & PORT_RX_LIMITED) && result == NO_ROOM) {
		COUNT(c, rx_dropped, f->packets);
		COUNT(c, rate_dropped, f->packets);
		return;
	}
	COUNT(c, rx_packets, f->packets);
	COUNT(c, rx_bytes, f->bytes);
}

/* The last of a frame: it goes to this port. */
static __always_inline int leave(struct __sk_buff *skb, const struct veb_port *to)
{
	if (veb_options.clone) {
		bpf_clone_redirect(skb, to->ifindex, 0);
		return TC_ACT_SHOT;
	}
	if (to->flags & PORT_PEER)
		return bpf_redirect_peer(to->ifindex, 0);
	return bpf_redirect(to->ifindex, 0);
}

#endif
