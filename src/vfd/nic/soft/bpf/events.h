/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Token buckets, and the events that only a guest's own frames tell. */
#ifndef VEB_EVENTS_H
#define VEB_EVENTS_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "veb.h"
#include "maps.h"
#include "frame.h"

#define EVENT_NS	10000000ULL	/* 100 events a second and port */
#define EVENT_DEPTH_NS	1000000000ULL	/* and 100 at once */

/* Takes `cost` nanoseconds from a bucket that may run `depth` ahead; 0 when it has them not. The
 * generic cell rate algorithm (ITU-T I.371): one word, no lock. */
static __always_inline int take(__u64 *bucket, __u64 cost, __u64 depth)
{
	__u64 now = bpf_ktime_get_ns(), was, from;

	for (int tries = 0; tries < 4; tries++) {
		was = *(volatile __u64 *)bucket;
		from = was > now ? was : now;
		if (from + cost > now + depth)
			return 0;
		if (__sync_val_compare_and_swap(bucket, was, from + cost) == was)
			return 1;
	}
	return 0;
}

/* Tells the daemon about a frame, as much as VEB_SNAP bytes of it. What the ring buffer or the
 * port's share of it has no room for is not told: guests ask again. */
__noinline int tell(struct __sk_buff *skb, __u32 port, __u32 kind)
{
	struct veb_buckets *b = bpf_map_lookup_elem(&veb_buckets, &port);
	__u32 len = skb->len;
	struct veb_event *e;

	if (!b || !take(&b->events, EVENT_NS, EVENT_DEPTH_NS))
		return 0;
	e = bpf_ringbuf_reserve(&veb_events, sizeof(*e), 0);
	if (!e)
		return 0;
	if (len > VEB_SNAP)
		len = VEB_SNAP;
	e->port = port;
	e->kind = kind;
	e->len = len;
	/* 1 … VEB_SNAP, in a form that the verifier keeps track of */
	len = ((len - 1) & (VEB_SNAP - 1)) + 1;
	if (bpf_skb_load_bytes(skb, 0, e->frame, len))
		e->len = 0;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* An IGMP or MLD report, leave or done: RFC 3376 4 and 7.3, RFC 3810 5.2, RFC 2710 3.1. */
__noinline int is_report(struct __sk_buff *skb)
{
	__u8 byte;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 9, &byte, 1))
			return 0;
		return byte == IPPROTO_IGMP;
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6))
		return 0;
	/* MLD always has a hop-by-hop header with the router alert, eight bytes long */
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &byte, 1) || byte != IPPROTO_HOPOPTS)
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 40, &byte, 1) || byte != IPPROTO_ICMPV6)
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 48, &byte, 1))
		return 0;
	return byte == 131 || byte == 132 || byte == 143;
}

#endif
