// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The least that a switch in eBPF can cost: programs that look at nothing and deliver to the one
 * other port, whose index differs in its last bit. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tc/peer")
int peer(struct __sk_buff *skb)
{
	return bpf_redirect_peer(skb->ifindex ^ 1, 0);
}

SEC("tc/plain")
int plain(struct __sk_buff *skb)
{
	return bpf_redirect(skb->ifindex ^ 1, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
