// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Drops what a guest receives, after its netdev counted it: a guest that costs nothing. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

SEC("tc")
int sink(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
