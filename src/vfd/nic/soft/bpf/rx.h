/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Towards the ports: mirrors, Rx steps, the wire, flooding. */
#ifndef VEB_RX_H
#define VEB_RX_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "veb.h"
#include "maps.h"
#include "frame.h"
#include "port.h"

/* -- Mirroring ------------------------------------------------------------------------------- */

/* Copies of the frame as it is now to the mirrors of `vf` in one direction. A copy is not mirrored
 * again; a target's own filters have no say, but its link has. */
__noinline int mirror(struct __sk_buff *skb, struct frame *f, __u32 port, __u32 direction)
{
	const struct veb_port *vf = policy_of(port), *target;
	struct veb_counters *c;

	if (!vf || !f)
		return 0;
	for (int i = 0; i < VEB_MIRRORS; i++) {
		const struct veb_mirror *m = &vf->mirror[i];
		__u32 flags = m->flags, to = m->port;

		if (!flags)
			break;
		if (!(flags & direction))
			continue;
		if ((flags & MIRROR_VLANS) && (!is_tagged(f) || !has_vid(m->vlans, f->vlan & 0xfff)))
			continue;
		target = policy_of(to);
		if (!target || !(target->flags & PORT_UP))
			continue;
		give_copy(skb, f, to, target);
		c = counters_of(port);
		COUNT(c, mirrored, f->packets);
	}
	return 0;
}

/* -- To the guest: Rx ------------------------------------------------------------------------ */

/* Rx steps 4 and 5 for a frame that has passed the steps before. */
static __always_inline int to_guest(struct __sk_buff *skb, struct frame *f, __u32 port,
				    const struct veb_port *vf)
{
	struct veb_counters *c = counters_of(port);

	if (unlikely(vf->flags & PORT_RX_MIRROR))
		mirror(skb, f, port, MIRROR_IN);
	if (vf->flags & PORT_STRIP)
		pop_tag(skb, f);
	if (unlikely(vf->flags & PORT_RX_LIMITED)) {
		/* only a copy's sender learns whether there was room */
		give_copy(skb, f, port, vf);
		return TC_ACT_SHOT;
	}
	COUNT(c, rx_packets, f->packets);
	COUNT(c, rx_bytes, f->bytes);
	return leave(skb, vf);
}

/* Known unicast: it is in its owner's VLAN and class, so Rx step 1 is left. */
static __always_inline int offer(struct __sk_buff *skb, struct frame *f, __u32 port,
				 const struct veb_port *vf)
{
	if (unlikely(!(vf->flags & PORT_UP))) {
		struct veb_counters *c = counters_of(port);

		COUNT(c, rx_dropped, f->packets);
		return TC_ACT_SHOT;
	}
	return to_guest(skb, f, port, vf);
}

/* `last`: the frame goes nowhere else after this. */
static __always_inline int to_wire(struct __sk_buff *skb, struct frame *f, int last)
{
	const struct veb_port *wire = policy_of(VEB_WIRE);
	struct veb_counters *c = counters_of(VEB_WIRE);

	if (!wire || !wire->ifindex)
		return TC_ACT_SHOT;
	if (!(wire->flags & PORT_UP)) {
		COUNT(c, tx_dropped, f->packets);
		return TC_ACT_SHOT;
	}
	COUNT(c, tx_packets, f->packets);
	COUNT(c, tx_bytes, f->bytes);
	if (last)
		return leave(skb, wire);
	bpf_clone_redirect(skb, wire->ifindex, 0);
	return TC_ACT_SHOT;
}

/* -- Flooding -------------------------------------------------------------------------------- */

struct flood {
	struct __sk_buff *skb;
	struct frame *f;
	__u64 bits;		/* ports still to look at in this word */
	__u32 word;
	__u32 set;		/* SET_* */
	__u32 stripping;	/* second round: takers that want the frame without its tag */
	__u64 strip;		/* who they are */
};

/* Without branches: they multiply the verifier's states. */
static __always_inline __u32 lowest_bit(__u64 x)
{
	x = (x & -x) - 1;
	x = x - ((x >> 1) & 0x5555555555555555ULL);
	x = (x & 0x3333333333333333ULL) + ((x >> 2) & 0x3333333333333333ULL);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return (x * 0x0101010101010101ULL) >> 56;
}

/* Rx steps 1 … 3 of a port for a flooded frame. */
static __always_inline int takes(const struct flood *flood, __u32 port, const struct veb_port *vf)
{
	const struct frame *f = flood->f;

	if (!(vf->flags & PORT_UP) || !passes_vlan_filter(vf, f->vlan))
		return 0;
	if (flood->set == SET_BCAST)
		return vf->flags & PORT_BCAST;
	if (flood->set == SET_UCAST)
		return vf->flags & PORT_UCAST;
	if (vf->flags & PORT_MCAST)
		return 1;
	if (vf->flags & PORT_GROUPS) {
		union mac group = f->dst;

		group.as.port = port;
		return !!bpf_map_lookup_elem(&veb_groups, &group.as);
	}
	return 0;
}

static int flood_one(__u32 index, void *context)
{
	struct flood *flood = context;
	struct frame *f = flood->f;
	const struct veb_port *vf;
	__u64 bit;
	__u32 port;

	(void)index;
	if (!flood->bits)
		return 1;
	port = flood->word * 64 + lowest_bit(flood->bits);
	vf = policy_of(port);
	if (!vf)
		return 1;
	bit = flood->bits & -flood->bits;
	flood->bits &= ~bit;
	if (!flood->stripping) {
		if (!takes(flood, port, vf))
			return 0;
		if (vf->flags & PORT_RX_MIRROR)
			mirror(flood->skb, f, port, MIRROR_IN);
		if ((vf->flags & PORT_STRIP) && is_tagged(f)) {
			flood->strip |= bit;
			return 0;
		}
	}
	give_copy(flood->skb, f, port, vf);
	return 0;
}

/* One word of a set, without the port that the frame came from. */
static __always_inline __u64 others(const struct frame *f, const struct veb_set *set, __u32 word)
{
	__u64 bits = set->word[word];

	return word == f->from >> 6 ? bits & ~(1ULL << (f->from & 63)) : bits;
}

/* BUM: to every VF that passes its Rx rules but the sender, and `wire`: to the wire. First those
 * that take the frame as it is, then, its tag removed once, those that want it so. */
__noinline int flood(struct __sk_buff *skb, struct frame *f, __u32 set, __u32 wire)
{
	struct flood flood = { .skb = skb, .f = f, .set = set };
	__u64 bits[VEB_WORDS], any = 0, strip = 0;
	const struct veb_set *members, *takers;
	__u32 vlan;

	if (!f)
		return TC_ACT_SHOT;
	vlan = f->vlan;
	members = bpf_map_lookup_elem(&veb_members, &vlan);
	takers = bpf_map_lookup_elem(&veb_sets, &set);
	if (!members || !takers)
		return TC_ACT_SHOT;
#pragma unroll
	for (int w = 0; w < VEB_WORDS; w++)
		any |= bits[w] = others(f, members, w) & takers->word[w];
	if (!any)
		return wire ? to_wire(skb, f, 1) : TC_ACT_SHOT;
	if (wire)
		to_wire(skb, f, 0);
#pragma unroll
	for (int w = 0; w < VEB_WORDS; w++) {
		flood.bits = bits[w];
		flood.word = w;
		flood.strip = 0;
		if (flood.bits)
			bpf_loop(64, flood_one, &flood, 0);
		strip |= bits[w] = flood.strip;
	}
	if (!strip)
		return TC_ACT_SHOT;
	pop_tag(skb, f);
	flood.stripping = 1;
#pragma unroll
	for (int w = 0; w < VEB_WORDS; w++) {
		flood.bits = bits[w];
		flood.word = w;
		if (flood.bits)
			bpf_loop(64, flood_one, &flood, 0);
	}
	return TC_ACT_SHOT;
}

#endif
