// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The soft NIC's VEB: docs/semantics.md, "From the guest" to "Counters", as a tc program.
 *
 * `veb` runs at clsact ingress of the host end of every VF's veth or tap, and of the uplink, all in
 * the switch's network namespace. A VF with a rate, a guarantee or a class is handed over to the
 * shaper, a veth with an HTB; `veb_shaped` runs at its far end and goes on. With classes, a VF with
 * a rate passes the veth the other way before: `veb_shaped` runs there too. Both end in a redirect
 * or a drop: nothing ever reaches the host's own stack.
 *
 * Unicast costs the same at 2 and at 256 ports. Only frames that are flooded look at the set of
 * ports, a 64-bit word at a time.
 *
 * Runs on kernels from 6.1 on; compiles with clang 14.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "veb.h"
#include "maps.h"
#include "frame.h"
#include "events.h"
#include "port.h"
#include "rx.h"
#include "plain.h"

/* -- Switching ------------------------------------------------------------------------------- */

/* The static table, and what it means for one frame. */
struct way {
	__u32 owner;			/* of the destination, in whatever VLAN; 0: nobody */
	const struct veb_port *to;	/* the owner's policy where the frame is in its VLAN */
};

static __always_inline struct way look_up(const struct frame *f, __u32 vlan)
{
	struct way way = {};

	if (is_multicast(&f->dst))
		return way;
	way.to = hinted(f->dst.num, &way.owner);
	if (!way.to) {
		way.owner = owner_of(&f->dst);
		if (way.owner && way.owner != VEB_NOBODY)
			way.to = policy_of(way.owner);
	}
	if (way.to && !passes_vlan_filter(way.to, vlan))
		way.to = 0;
	return way;
}

static __always_inline __u32 set_of(const struct frame *f)
{
	if (!is_multicast(&f->dst))
		return SET_UCAST;
	return is_broadcast(&f->dst) ? SET_BCAST : SET_MCAST;
}

static __always_inline int switch_frame(struct __sk_buff *skb, struct frame *f,
					const struct way *way)
{
	if (way->to) {
		if (way->owner == f->from)	/* never back to the port it came from */
			return TC_ACT_SHOT;
		return offer(skb, f, way->owner, way->to);
	}
	if (unlikely(way->owner && way->owner != f->from)) {
		/* it is the owner's, but in a VLAN that is not */
		const struct veb_port *vf = policy_of(way->owner);
		struct veb_counters *c = counters_of(way->owner);

		if (way->owner == VEB_NOBODY || !vf)
			return TC_ACT_SHOT;
		COUNT(c, rx_dropped, f->packets);
		if (vf->flags & PORT_UP)
			COUNT(c, dropped_vlan, f->packets);
	}
	return flood(skb, f, set_of(f), f->from != VEB_WIRE);
}

static __always_inline int from_wire(struct __sk_buff *skb, struct frame *f,
				     const struct veb_port *wire)
{
	struct veb_counters *c = counters_of(VEB_WIRE);
	struct way way;

	if (!(wire->flags & PORT_UP)) {
		COUNT(c, rx_dropped, f->packets);
		return TC_ACT_SHOT;
	}
	if (parse(skb, f)) {
		COUNT(c, rx_errors, f->packets);
		return TC_ACT_SHOT;
	}
	COUNT(c, rx_packets, f->packets);
	COUNT(c, rx_bytes, f->bytes);
	if (unlikely(is_mac_control(skb)))	/* they are between two ends of a cable */
		return TC_ACT_SHOT;
	way = look_up(f, f->vlan);
	return switch_frame(skb, f, &way);
}

/* -- From the guest: Tx ---------------------------------------------------------------------- */

enum refusal { PASS, SPOOFED, UNTAGGED, OVERSIZE };

/* Tx steps 2 and 3. */
static __always_inline enum refusal check_source(struct __sk_buff *skb, const struct frame *f,
						 const struct veb_port *vf)
{
	if (is_multicast(&f->src) || !f->src.num || is_mac_control(skb))
		return SPOOFED;
	if (!(vf->flags & (PORT_MAC_SPOOFCHK | PORT_LEARN)))
		return PASS;
	if (likely(mac_at(vf->mac) == f->src.num))
		return PASS;
	if (owner_of(&f->src) == f->from)
		return PASS;
	if (vf->flags & PORT_LEARN)
		tell(skb, f->from, EVENT_SOURCE);
	return vf->flags & PORT_MAC_SPOOFCHK ? SPOOFED : PASS;
}

/* Tx step 4. */
static __always_inline enum refusal check_tag(const struct frame *f, const struct veb_port *vf)
{
	__u32 vid = f->vlan & 0xfff;

	if (vf->flags & PORT_INSERT) {
		if (!is_tagged(f))
			return PASS;
		if (f->vlan & VEB_STAG)
			return SPOOFED;
		if (vf->flags & PORT_SERVICE)
			return PASS;
		return vid || (f->vlan & VEB_VEILED) ? SPOOFED : PASS;
	}
	if (is_tagged(f) && (!is_of_kind(vf, f->vlan) || (f->vlan & VEB_VEILED)))
		return SPOOFED;
	if (!is_tagged(f) || !vid)
		return vf->flags & PORT_UNTAGGED ? PASS : UNTAGGED;
	if (vid == 4095)	/* reserved: IEEE 802.1Q-2018, table 9-2 */
		return SPOOFED;
	if ((vf->flags & PORT_VLAN_SPOOFCHK) && !has_vid(vf->vlans, vid))
		return SPOOFED;
	return PASS;
}

/* The VLAN that the frame is in once it is tagged. */
static __always_inline __u32 vlan_after(const struct frame *f, const struct veb_port *vf)
{
	if (!(vf->flags & PORT_INSERT))
		return f->vlan;
	return vf->vid | (vf->tpid == ETH_P_8021AD ? VEB_STAG : 0);
}

/* PCP and DEI of the tag that Tx inserts, where a tag has them. */
static __always_inline __u32 priority_of(const struct frame *f, const struct veb_port *vf)
{
	return is_priority(f) ? f->tci & 0xf000 : vf->flags >> PORT_PCP_SHIFT << 13;
}

/* Does what check_tag found acceptable. A priority tag gives its place, PCP and DEI. */
static __always_inline int insert_tag(struct __sk_buff *skb, struct frame *f,
				      const struct veb_port *vf, __u32 vlan)
{
	__u32 tci = vf->vid | priority_of(f, vf);

	if (is_priority(f))
		pop_tag(skb, f);
	if (bpf_skb_vlan_push(skb, bpf_htons(vf->tpid), tci))
		return -1;
	f->bytes += TAG_LEN * f->packets;
	f->vlan = vlan;
	f->tci = tci;
	return 0;
}

/* BUM that a storm limit counts: what may reach more than one port. Unknown unicast that no other
 * VF may take goes to the wire alone, like nearly all that a guest says to the world. */
static __always_inline int is_storm(const struct frame *f, const struct veb_port *vf,
				    const struct way *way)
{
	__u32 set = SET_UCAST;
	const struct veb_set *takers;
	__u64 any = 0;

	if (is_multicast(&f->dst))
		return 1;
	if (way->to || !(vf->flags & PORT_LOOPBACK))
		return 0;
	takers = bpf_map_lookup_elem(&veb_sets, &set);
#pragma unroll
	for (__u32 w = 0; takers && w < VEB_WORDS; w++)
		any |= others(f, takers, w);
	return !!any;
}

/* Tx step 6: the storm limit. 0: the frame is over it. */
static __always_inline int within_storm_limit(const struct frame *f, const struct veb_port *vf)
{
	__u32 port = f->from;
	struct veb_buckets *b = bpf_map_lookup_elem(&veb_buckets, &port);

	return !b || take(&b->storm, vf->storm_ns * f->packets, vf->storm_depth_ns);
}

#define SHAPED_MARK	0x76650000u	/* | port, from the shaper's near end to its far end */
#define LIMITED_MARK	0x76640000u	/* | port, the other way */

/* Whether somebody waits for the frame to leave: a socket in the guest. Those of taps have no
 * family; QEMU lets them send without a limit. */
static __always_inline int has_sender(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk && sk->family;
}

/* The frame's buffer into one of the shaper's queues. Where that is full it counts the buffer as one
 * packet; the rest is counted here, which takes a copy, as sending one says whether there was room.
 * A copy has no sender any more, who would then send on and on; so where there is one, no copy. */
static __always_inline int queue(struct __sk_buff *skb, const struct frame *f, __u32 ifindex)
{
	struct veb_counters *c;

	if (f->packets == 1 || has_sender(skb))
		return bpf_redirect(ifindex, 0);
	if (bpf_clone_redirect(skb, ifindex, 0) == NO_ROOM && (c = counters_of(f->from))) {
		c->rate_dropped += f->packets - 1;
		c->tx_dropped += f->packets - 1;
	}
	return TC_ACT_SHOT;
}

/* How far a frame has come in Tx step 6. */
enum stage { FRESH, LIMITED, SHAPED };

/* Tx step 6: rate, guarantee, class. Where frames come out all steps are done again: policy may have
 * changed while they waited, and then what holds is what holds when they leave. One tree of queues
 * can't hold a VF's rate over its classes and the classes over the VFs, so there are two. */
static __always_inline int to_shaper(struct __sk_buff *skb, const struct frame *f,
				     const struct veb_port *vf, enum stage stage)
{
	__u32 tci = vf->flags & PORT_INSERT ? priority_of(f, vf) : f->tci;

	skb->priority = vf->classid[tci >> 13 & 7];
	if (stage == FRESH && vf->limiter) {
		skb->mark = LIMITED_MARK | f->from;
		return queue(skb, f, vf->limiter);
	}
	skb->mark = SHAPED_MARK | f->from;
	return queue(skb, f, vf->shaper);
}

static __always_inline int from_guest(struct __sk_buff *skb, struct frame *f,
				      const struct veb_port *vf, enum stage stage)
{
	struct veb_counters *c = counters_of(f->from);
	struct way way = {};
	enum refusal refusal;
	__u32 vlan;

	if (!c)
		return TC_ACT_SHOT;
	if (unlikely(!(vf->flags & PORT_UP))) {		/* 1 */
		c->tx_dropped += f->packets;
		return TC_ACT_SHOT;
	}
	if (unlikely(parse(skb, f))) {
		c->tx_errors += f->packets;
		return TC_ACT_SHOT;
	}
	refusal = check_source(skb, f, vf);		/* 2, 3 */
	if (!refusal)
		refusal = check_tag(f, vf);		/* 4 */
	if (!refusal && f->longest > vf->mtu)		/* 5 */
		refusal = OVERSIZE;
	if (unlikely(refusal)) {
		c->tx_dropped += f->packets;
		if (refusal == SPOOFED)
			c->spoofed += f->packets;
		else if (refusal == UNTAGGED)
			c->dropped_untagged += f->packets;
		else
			c->oversize += f->packets;
		return TC_ACT_SHOT;
	}
	if ((vf->flags & PORT_SNOOP) && is_multicast(&f->dst) && stage == FRESH &&
	    is_report(skb))
		tell(skb, f->from, EVENT_REPORT);
	vlan = vlan_after(f, vf);
	if (vf->flags & PORT_LOOPBACK)
		way = look_up(f, vlan);
	if (stage == FRESH && vf->storm_ns &&		/* 6 */
	    is_storm(f, vf, &way) && !within_storm_limit(f, vf)) {
		c->tx_dropped += f->packets;
		c->storm_dropped += f->packets;
		return TC_ACT_SHOT;
	}
	if (stage != SHAPED && vf->flags & PORT_SHAPED)
		return to_shaper(skb, f, vf, stage);
	c->tx_packets += f->packets;
	c->tx_bytes += f->bytes;
	if ((vf->flags & PORT_INSERT) && insert_tag(skb, f, vf, vlan))
		return TC_ACT_SHOT;
	if (unlikely(vf->flags & PORT_TX_MIRROR))	/* 7 */
		mirror(skb, f, f->from, MIRROR_OUT);
	if (!(vf->flags & PORT_LOOPBACK))		/* 8 */
		return to_wire(skb, f, 1);
	return switch_frame(skb, f, &way);
}

/* Nothing that a tenant could set in the buffer's metadata reaches another one, or steers us.
 * Volatile: the compiler would join stores of neighbours, and the verifier refuses that. */
static __always_inline void cleanse(volatile struct __sk_buff *skb)
{
	skb->mark = 0;
	skb->priority = 0;
	skb->queue_mapping = 0;
	skb->tstamp = 0;
}

SEC("tc")
int veb(struct __sk_buff *skb)
{
	const struct veb_port *policy;
	struct frame f = {};
	int verdict;

	policy = port_of(skb->ifindex, &f.from);
	if (!policy)
		return TC_ACT_SHOT;
	cleanse(skb);
	if (veb_options.path != PATH_GENERAL) {
		verdict = plain(skb, f.from, policy);
		if (likely(verdict != TC_ACT_UNSPEC) || veb_options.path == PATH_PLAIN)
			return verdict;
	}
	measure(skb, &f);
	if (f.from == VEB_WIRE)
		return from_wire(skb, &f, policy);
	return from_guest(skb, &f, policy, FRESH);
}

SEC("tc")
int veb_shaped(struct __sk_buff *skb)
{
	__u32 kind = skb->mark & 0xffff0000u;
	const struct veb_port *policy;
	struct frame f = {};

	if (kind != SHAPED_MARK && kind != LIMITED_MARK)
		return TC_ACT_SHOT;
	f.from = skb->mark & 0xffff;
	policy = policy_of(f.from);
	if (!policy || f.from == VEB_WIRE)
		return TC_ACT_SHOT;
	cleanse(skb);
	measure(skb, &f);
	return from_guest(skb, &f, policy, kind == SHAPED_MARK ? SHAPED : LIMITED);
}

char _license[] SEC("license") = "Dual BSD/GPL";
