/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* One frame on its way through the VEB: what it is, and how much of it there is on the wire. */
#ifndef VEB_FRAME_H
#define VEB_FRAME_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "veb.h"

#define TAG_LEN		4
#define GSO_BY_FRAGS	0xffff	/* include/linux/skbuff.h */

#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)

/* A MAC as bytes, as a key of veb_macs, and as a number to compare. */
union mac {
	__u8 byte[6];
	struct veb_mac as;
	__u64 num;
};

/* The MAC at an address, as union mac has it, in one load; the 2 bytes behind it are read as well. */
static __always_inline __u64 mac_at(const void *at)
{
	union mac mac = { .num = *(const __u64 *)at };

	mac.as.port = 0;
	return mac.num;
}

struct frame {
	union mac dst, src;
	__u32 from;		/* port it came from */
	__u32 vlan;		/* VEB number: VID, VEB_STAG, VEB_UNTAGGED */
	__u32 tci;		/* of the outer tag, 0 without one */
	__u32 packets;		/* on the wire */
	__u32 bytes;		/* of all packets, as the frame is now */
	__u32 longest;		/* bytes after Ethernet header and outer tag, longest packet, as sent */
};

static __always_inline int is_tag(__u32 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

static __always_inline int is_multicast(const union mac *mac)
{
	return mac->byte[0] & 1;
}

static __always_inline int is_broadcast(const union mac *mac)
{
	const union mac all = { .byte = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff } };

	return mac->num == all.num;
}

static __always_inline int is_tagged(const struct frame *f)
{
	return f->vlan != VEB_UNTAGGED;
}

/* A priority tag: VID 0. */
static __always_inline int is_priority(const struct frame *f)
{
	return is_tagged(f) && !(f->vlan & 0xfff);
}

/* Length of the headers that each segment of a buffer repeats: Ethernet to TCP or UDP, without a
 * tag that is in the metadata. What is behind a tunnel's UDP header isn't looked for. */
__noinline __u32 headers_of(struct __sk_buff *skb)
{
	__u32 at = ETH_HLEN, proto = skb->protocol, next;
	__u8 byte[4];

	for (int tags = 0; tags < 2 && is_tag(proto); tags++) {
		if (bpf_skb_load_bytes(skb, at, byte, TAG_LEN))
			return at;
		proto = bpf_htons(byte[2] << 8 | byte[3]);
		at += TAG_LEN;
	}
	if (proto == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, at, byte, 1) ||
		    bpf_skb_load_bytes(skb, at + 9, byte + 1, 1))
			return at;
		next = byte[1];
		at += (byte[0] & 15) * 4;
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, at + 6, byte, 1))
			return at;
		next = byte[0];
		at += 40;
		for (int i = 0; i < 4; i++) {
			if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
			    next != IPPROTO_DSTOPTS)
				break;
			if (bpf_skb_load_bytes(skb, at, byte, 2))
				return at;
			next = byte[0];
			at += (byte[1] + 1) * 8;
		}
	} else {
		return at;
	}
	if (next == IPPROTO_TCP && !bpf_skb_load_bytes(skb, at + 12, byte, 1))
		return at + (byte[0] >> 4) * 4;
	if (next == IPPROTO_UDP)
		return at + 8;
	if (next == IPPROTO_SCTP)
		return at + 12;
	return at;
}

/* How many packets a segmentation-offload buffer is, and how long. A tap's gso_segs may be 0, and a
 * tunnel's headers are longer than headers_of finds: segments and their size bound them. */
__noinline int measure_segments(struct __sk_buff *skb, struct frame *f)
{
	__u32 len = skb->len, size = skb->gso_size, segs = skb->gso_segs, headers, least;

	if (!f)
		return -1;
	headers = headers_of(skb);
	if (headers > len)
		headers = len;
	if (size == GSO_BY_FRAGS) {
		f->packets = segs ? segs : 1;
		f->longest = 0;		/* each fragment is a packet that the guest's own MTU shaped */
	} else {
		if (!segs)
			segs = (len - headers + size - 1) / size;
		if (!segs)
			segs = 1;
		least = len - segs * size;
		if ((__s32)least > (__s32)headers)
			headers = least;
		f->packets = segs;
		f->longest = (headers + size < len ? headers + size : len) - ETH_HLEN;
	}
	f->bytes = len + (f->packets - 1) * headers;
	return 0;
}

/* Amounts, before anything is looked at. A tag in the metadata is none of skb->len. */
static __always_inline void measure(struct __sk_buff *skb, struct frame *f)
{
	f->packets = 1;
	f->bytes = skb->len;
	f->longest = skb->len - ETH_HLEN;
	if (unlikely(skb->gso_size))
		measure_segments(skb, f);
	if (skb->vlan_present)
		f->bytes += TAG_LEN * f->packets;
}

/* Moves an outer tag that is still in the frame's bytes into the metadata, where the kernel has it
 * before tc on every real path; BPF_PROG_TEST_RUN has not. 0, or less: the tag is cut off. */
__noinline int lift_tag(struct __sk_buff *skb)
{
	__be16 proto = skb->protocol;
	__u8 tci[2];

	if (skb->len < ETH_HLEN + TAG_LEN || bpf_skb_load_bytes(skb, ETH_HLEN, tci, sizeof(tci)))
		return -1;
	/* an error is about the next tag: then that one is cut off, which is payload */
	bpf_skb_vlan_pop(skb);
	return bpf_skb_vlan_push(skb, proto, tci[0] << 8 | tci[1]);
}

/* The tags behind the outer one, on the way to the frame's EtherType. */
struct inner {
	struct __sk_buff *skb;
	__u32 at;		/* of what follows `type` */
	__u32 type;
};

static int skip_tag(__u32 index, void *context)
{
	struct inner *inner = context;
	__u8 byte[TAG_LEN];

	(void)index;
	/* a tag that is cut off is payload */
	if (!is_tag(inner->type) || bpf_skb_load_bytes(inner->skb, inner->at, byte, TAG_LEN))
		return 1;
	inner->type = bpf_htons(byte[2] << 8 | byte[3]);
	inner->at += TAG_LEN;
	return 0;
}

/* The EtherType behind all tags. */
__noinline __u32 innermost_type(struct __sk_buff *skb)
{
	struct inner inner = { .skb = skb, .at = ETH_HLEN, .type = skb->protocol };

	bpf_loop(skb->len / TAG_LEN, skip_tag, &inner, 0);
	return inner.type;
}

/* PAUSE, PFC and the like, under whatever tags: IEEE 802.3-2018, 31.4. The outer tag is in the
 * metadata by now, so skb->protocol is what follows it. */
static __always_inline int is_mac_control(struct __sk_buff *skb)
{
	__u32 type = skb->protocol;

	if (unlikely(is_tag(type)))
		type = innermost_type(skb);
	return type == bpf_htons(ETH_P_PAUSE);
}

/* Reads addresses and outer tag. 0, or less: the frame ends within its header or its tag. */
static __always_inline int parse(struct __sk_buff *skb, struct frame *f)
{
	void *data, *end;

	if (unlikely(!skb->vlan_present && is_tag(skb->protocol))) {
		if (lift_tag(skb))
			return -1;
		f->longest -= TAG_LEN;
	}
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (unlikely(data + ETH_HLEN > end)) {
		if (bpf_skb_pull_data(skb, ETH_HLEN))
			return -1;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		if (data + ETH_HLEN > end)
			return -1;
	}
	f->dst.num = mac_at(data);
	f->src.num = mac_at(data + ETH_ALEN);
	f->vlan = VEB_UNTAGGED;
	f->tci = 0;
	if (skb->vlan_present) {
		f->tci = skb->vlan_tci & 0xffff;
		f->vlan = f->tci & 0xfff;
		if (skb->vlan_proto == bpf_htons(ETH_P_8021AD))
			f->vlan |= VEB_STAG;
		/* cut off or not: whoever pads the frame completes it */
		if (unlikely(!(f->vlan & 0xfff) && is_tag(skb->protocol)))
			f->vlan |= VEB_VEILED;
	}
	return 0;
}

/* Removes the outer tag. */
static __always_inline void pop_tag(struct __sk_buff *skb, struct frame *f)
{
	if (!is_tagged(f))
		return;
	bpf_skb_vlan_pop(skb);	/* an error is about the next tag, as in lift_tag */
	f->bytes -= TAG_LEN * f->packets;
}

#endif
