// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Every host: which connections to a VIP it has, from its sockets, for a distributor
 * that is new and knows none (docs/adr/0018).
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "addresses.h"
#include "kernel.h"

#define AF_INET 2

/* TIME_WAIT is not: what such a connection still gets is an end that is repeated or over. */
#define CONNECTED                                                                                  \
	(1 << BPF_TCP_ESTABLISHED | 1 << BPF_TCP_SYN_RECV | 1 << BPF_TCP_FIN_WAIT1 |               \
	 1 << BPF_TCP_FIN_WAIT2 | 1 << BPF_TCP_CLOSE_WAIT | 1 << BPF_TCP_LAST_ACK |                \
	 1 << BPF_TCP_CLOSING | 1 << BPF_TCP_NEW_SYN_RECV)

/* asked: 0 -> the VIP whose connections are wanted. Written before each run. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct address);
} asked SEC(".maps");

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Of either family: a socket of IPv6 may have a connection of IPv4. */
static __always_inline void read_ends(struct sock_common *common, struct address *vip,
				      struct address *client)
{
	if (common->skc_family == AF_INET) {
		v4_mapped(vip, common->skc_rcv_saddr);
		v4_mapped(client, common->skc_daddr);
	} else if (bpf_core_field_exists(common->skc_v6_daddr)) {
		bpf_core_read(vip, sizeof(*vip), &common->skc_v6_rcv_saddr);
		bpf_core_read(client, sizeof(*client), &common->skc_v6_daddr);
	}
}

static __always_inline void write_row(struct seq_file *seq, struct sock_common *common,
				      const struct address *client, bool v4)
{
	__u16 port = bpf_htons(common->skc_num), client_port = common->skc_dport;
	struct own_ipv6 row6 = {*client, client_port, port};
	struct own_ipv4 row4 = {client->words[3], client_port, port};

	if (v4)
		bpf_seq_write(seq, &row4, sizeof(row4));
	else
		bpf_seq_write(seq, &row6, sizeof(row6));
}

/* Writes a struct own_ipv4 or own_ipv6, as is the VIP, for each. */
SEC("iter/tcp")
int own_connections(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct address vip = {}, client = {};
	struct address *wanted;
	__u32 zero = 0;

	if (!common || !(CONNECTED >> common->skc_state & 1))
		return 0;
	wanted = bpf_map_lookup_elem(&asked, &zero);
	read_ends(common, &vip, &client);
	if (wanted && same_address(&vip, wanted))
		write_row(ctx->meta->seq, common, &client, is_v4_mapped(wanted));
	return 0;
}
