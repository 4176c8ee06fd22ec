/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The maps of the VEB, who writes and who reads each. "Daemon" is the control plane. Names have at
 * most 15 characters: that much of them the kernel keeps, and a new daemon finds maps by name.
 */
#ifndef VEB_MAPS_H
#define VEB_MAPS_H

#include "veb.h"

#define MAP(name, map_type, key_type, value_type, entries)	\
	struct {						\
		__uint(type, BPF_MAP_TYPE_##map_type);		\
		__type(key, key_type);				\
		__type(value, value_type);			\
		__uint(max_entries, entries);			\
	} name SEC(".maps")

/* ifindex → port. Daemon writes when a port is made or goes; programs read. */
MAP(veb_ifaces, HASH, __u32, __u32, VEB_IFACES);

/* VEB_SLOTS policies of each port, at port * VEB_SLOTS + slot. Daemon writes, only slots that are
 * not in force; programs read the slot that veb_active names. A hash would not do: the kernel gives
 * a replaced element's memory to the next update at once, under the eyes of a program that is still
 * reading it. */
MAP(veb_ports, ARRAY, __u32, struct veb_port, VEB_PORTS * VEB_SLOTS);

/* port → slot in force. Daemon writes: one byte, so a policy changes whole; programs read. */
MAP(veb_active, ARRAY, __u32, __u8, VEB_PORTS);

/* MAC → its owner, one for the whole PF. Daemon writes; programs read, for the Tx source and for
 * the destination. Whether the frame is in a VLAN of the owner, the owner's policy says: together
 * they are the VEB's table of (MAC, VLAN). */
MAP(veb_macs, HASH, struct veb_mac, struct veb_mac, VEB_MACS);

/* hint_of(MAC) → the port that may have it as its default MAC. Daemon writes; programs read. A guess
 * that saves a hash look-up: the port's policy says whether it is right. While a MAC changes hands
 * the daemon keeps its hint cleared. */
MAP(veb_hints, ARRAY, __u32, __u16, VEB_HINTS);

/* (multicast MAC, port): the guest joined that group and was granted it. Daemon writes; programs
 * read for ports without PORT_MCAST. */
MAP(veb_groups, HASH, struct veb_mac, __u8, VEB_GROUPS);

/* VLAN → ports that may be in it. Daemon writes; programs read. Only says where to look: it may hold
 * ports too many while policies change, each port's own policy decides. */
MAP(veb_members, ARRAY, __u32, struct veb_set, VEB_VLANS);

/* SET_* → ports that may take frames of that class; like veb_members. */
#define SET_BCAST	0
#define SET_MCAST	1
#define SET_UCAST	2
#define SETS		3
MAP(veb_sets, ARRAY, __u32, struct veb_set, SETS);

/* port → counters. Programs write, each CPU its own; daemon reads and never writes. */
MAP(veb_counters, PERCPU_ARRAY, __u32, struct veb_counters, VEB_PORTS);

/* port → token buckets. Programs read and write; daemon never does. */
MAP(veb_buckets, ARRAY, __u32, struct veb_buckets, VEB_PORTS);

/* What guests did that only their frames tell. Programs write; daemon reads. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, VEB_EVENTS);
} veb_events SEC(".maps");

/* Layout version. Daemon writes once after loading and reads before it takes maps over. No program
 * reads this one and those that follow, but they belong to the programs: they live as long. */
MAP(veb_meta, ARRAY, __u32, struct veb_meta, 1);

/* JSON, NUL-padded: what the daemon notes for its successor (the PF's policy). Daemon only. */
struct veb_note { char text[VEB_NOTE]; };
MAP(veb_note, ARRAY, __u32, struct veb_note, 1);

/* port → frames that the shaper dropped in queues that are gone. Daemon only. */
MAP(veb_drops, ARRAY, __u32, __u64, VEB_PORTS);

#endif
