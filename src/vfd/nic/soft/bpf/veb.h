/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the VEB's program and its control plane share: the maps' layout. tables.py and vebmaps.py
 * are the other side; a test holds both sides equal.
 *
 * VEB_LAYOUT changes with every change of a struct, a map or the meaning of a field; not for a map
 * more, or for a bit or a spare field that was 0 till then and means what it meant. A daemon that
 * finds maps of its own layout takes them over as they are; of another one, it reads what they say
 * with the code of that layout or not at all.
 *
 * Numbers are in host byte order unless a comment says otherwise.
 */
#ifndef VEB_H
#define VEB_H

#define VEB_LAYOUT	1

#define VEB_WIRE	0	/* port number of the wire; VF n is port n + 1 */
#define VEB_NOBODY	0xfff	/* owner of a MAC that changes hands just now */
#define VEB_PORTS	257	/* the wire and 256 VFs */
#define VEB_WORDS	5	/* 64-bit words in a set of ports */
#define VEB_HOST_ENDS	0x100	/* likely ifindex of VF 0's host end; VF n's is n more */
#define VEB_SLOTS	4	/* copies of a port's policy; one is in force */
#define VEB_MIRRORS	8	/* most mirrors of one VF */
#define VEB_IFACES	1024
#define VEB_MACS	65536	/* twice 256 VFs × (1 default + 64 listed + 63 granted) */
#define VEB_HINTS	4096
#define VEB_HINT_FACTOR	0x9e3779b97f4a7c15ULL	/* 2^64 / golden ratio */
#define VEB_HINT_SHIFT	52	/* 64 - log2(VEB_HINTS) */
#define VEB_GROUPS	32768	/* twice 256 VFs × 64 groups */
#define VEB_EVENTS	(256 * 1024)	/* bytes of the ring buffer */
#define VEB_SNAP	256	/* most bytes of a frame in an event */
#define VEB_NOTE	16384	/* bytes for what the control plane notes for its successor */

/* A VLAN as a number: VID of a C-tag, VEB_STAG | VID of an S-tag, VEB_UNTAGGED without any tag.
 * VID 0 is a priority tag: no VLAN, but still of a kind. */
#define VEB_STAG	0x1000
#define VEB_UNTAGGED	0x2000
#define VEB_VLANS	0x2001
/* Or this with VEB_STAG or without, of a veiled tag: one behind a priority tag. It is no VLAN's, so
 * no port is in it. */
#define VEB_VEILED	0x4000

/* veb_port.flags: what the program acts on */
#define PORT_UP			(1u << 0)	/* link up, by link_status and wire */
#define PORT_MAC_SPOOFCHK	(1u << 1)	/* Tx source must be one of the VF's MACs */
#define PORT_VLAN_SPOOFCHK	(1u << 2)	/* Tx outer VID must be in vlans */
#define PORT_UNTAGGED		(1u << 3)	/* untagged frames pass, both ways */
#define PORT_BCAST		(1u << 4)	/* Rx of broadcast */
#define PORT_MCAST		(1u << 5)	/* Rx of every multicast group */
#define PORT_UCAST		(1u << 6)	/* Rx of unicast to MACs that nobody owns */
#define PORT_GROUPS		(1u << 7)	/* was granted groups: look into map groups */
#define PORT_INSERT		(1u << 8)	/* access or service access: Tx inserts `vid` */
#define PORT_STRIP		(1u << 9)	/* Rx removes the outer tag */
#define PORT_SERVICE		(1u << 10)	/* strip_stag: the kind of tag is the PF's */
#define PORT_LOOPBACK		(1u << 11)	/* Tx may go to other VFs (the PF's setting) */
#define PORT_PEER		(1u << 12)	/* bpf_redirect_peer may be used towards it */
#define PORT_SHAPED		(1u << 13)	/* Tx goes through the shaper */
#define PORT_SNOOP		(1u << 14)	/* report IGMP and MLD reports from it */
#define PORT_LEARN		(1u << 15)	/* report source MACs that it does not own */
#define PORT_TX_MIRROR		(1u << 16)	/* some mirror has MIRROR_OUT */
#define PORT_RX_MIRROR		(1u << 17)	/* some mirror has MIRROR_IN */
#define PORT_CONFIGURED		(1u << 18)	/* the VF has a configuration (or: this is a wire) */
#define PORT_RX_LIMITED		(1u << 19)	/* its queue may have no room: look whether it had */
#define PORT_PCP_SHIFT		29		/* bits 29 … 31: PCP of a tag that Tx inserts */

/* veb_port.said: what only the control plane acts on, kept where it is enforced so that a new
 * daemon finds it with the rest. */
#define SAID_LINK_ON		(1u << 0)	/* link_status; neither: auto */
#define SAID_LINK_OFF		(1u << 1)
#define SAID_STRIP_CTAG		(1u << 2)
#define SAID_TRUST		(1u << 3)
#define SAID_MACS_LISTED	(1u << 4)	/* guest_macs; neither: any */
#define SAID_MACS_NONE		(1u << 5)
#define SAID_GUEST_VLANS	(1u << 6)
#define SAID_GUEST_GROUPS	(1u << 7)
#define SAID_PROMISC		(1u << 8)	/* granted promiscuous */
#define SAID_ALLMULTI		(1u << 9)	/* granted all-multicast */

#define MIRROR_IN	1	/* copies of what the VF is given */
#define MIRROR_OUT	2	/* copies of what the VF sends */
#define MIRROR_VLANS	4	/* only frames whose VID is in `vlans` */

/* A set of ports: bit p % 64 of word p / 64 is port p. */
struct veb_set {
	__u64 word[VEB_WORDS];
};

struct veb_mirror {
	__u32 port;		/* target */
	__u32 flags;		/* MIRROR_*; 0: none from here on */
	__u64 vlans[64];	/* bit v % 64 of word v / 64: VID v */
};

/* Whole policy of a port. */
struct veb_port {
	__u32 flags;		/* PORT_* */
	__u32 ifindex;		/* host end of the veth, tap, or uplink; 0: there is none */
	__u32 mtu;		/* bytes after the Ethernet header and the outer tag */
	__u16 tpid;		/* the VF's kind of tag: 0x8100 or 0x88a8 */
	__u16 vid;		/* PORT_INSERT: VID that Tx inserts */
	__u8 mac[6];		/* default MAC, zero if it is none of the VF's */
	__u16 mirrors;		/* how many */
	__u32 shaper;		/* PORT_SHAPED: ifindex of the shaper's near end */
	__u32 classid[8];	/* PORT_SHAPED: HTB class (tc handle) by PCP */
	__u64 storm_ns;		/* 1e9 / storm_limit; 0: no limit */
	__u64 storm_depth_ns;	/* how far a burst may run ahead, as time */

	/* from here on the program reads nothing but limiter, vlans and mirror */
	__u32 said;		/* SAID_* */
	__u32 storm_limit;	/* frames per second */
	__u32 mtu_said;		/* `mtu`; 0: none */
	__u32 mtu_granted;	/* 0: none */
	__u64 rate, min_rate, max_rx_rate;	/* bits per second */
	__u64 shares[8];	/* queues: percent, as bits of a double; ~0: not stated */
	__u8 own_mac[6];	/* the NIC's own MAC for this VF */
	__u8 granted_mac[6];	/* granted default MAC, or zero */

	__u32 limiter;		/* PORT_SHAPED: ifindex of the end to pass before the shaper; 0: none */
	__u64 vlans[64];	/* bit v % 64 of word v / 64: VID v of the VF's kind */
	struct veb_mirror mirror[VEB_MIRRORS];
};

/* Key and value of macs at once: comparing the value's MAC with the one that was looked up tells
 * a value whose memory the kernel gave to another key meanwhile. */
struct veb_mac {
	__u8 mac[6];
	__u16 port;		/* key: 0. Value: owner | why it owns it (MAC_*) */
};

#define MAC_PORT	0x0fff
#define MAC_FORCED	0x1000	/* vm_mac */
#define MAC_LISTED	0x2000	/* macs */
#define MAC_GRANTED	0x4000	/* a granted further MAC */

/* In the order of nic.protocol.COUNTERS. Directions are the guest's. Packets on the wire: a
 * segmentation-offload buffer counts as its segments, each with its own headers. */
struct veb_counters {
	__u64 rx_packets, rx_bytes, rx_errors, rx_dropped;
	__u64 tx_packets, tx_bytes, tx_errors, tx_dropped;
	__u64 spoofed, dropped_vlan, dropped_untagged, oversize;
	__u64 rate_dropped;	/* before rate the shaper's queues count too: see queue() */
	__u64 storm_dropped, mirrored;
	__u64 spare;
};

/* Token buckets as the time until which they are spoken for (GCRA), 0: full. */
struct veb_buckets {
	__u64 storm;
	__u64 events;
};

#define EVENT_SOURCE	1	/* a source MAC that the VF does not own */
#define EVENT_REPORT	2	/* an IGMP or MLD report */

struct veb_event {
	__u32 port;
	__u16 kind;		/* EVENT_* */
	__u16 len;		/* bytes in `frame` */
	__u8 frame[VEB_SNAP];	/* as sent, without the outer tag */
};

struct veb_meta {
	__u32 layout;		/* VEB_LAYOUT of whoever made the maps */
	__u32 spare;
	__u64 made_ns;		/* CLOCK_REALTIME when they were made */
};

/* Load-time constants. */
struct veb_options {
	__u32 clone;		/* deliver by bpf_clone_redirect: BPF_PROG_TEST_RUN can watch that */
	__u32 path;		/* PATH_*: tests tell the program's two ways apart */
};

#define PATH_ALL	0
#define PATH_GENERAL	1	/* all frames, and none of them by plain.h */
#define PATH_PLAIN	2	/* those that plain.h takes; TC_ACT_UNSPEC for others */

#endif
