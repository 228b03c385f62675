/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few kernel structures that the programs read, relocated at load time
 * (CO-RE): only the named fields matter, not their offsets here.
 */
#ifndef ANYPORT_KERNEL_H
#define ANYPORT_KERNEL_H

#define RELOCATED __attribute__((preserve_access_index))

struct counter64 {
	long long counter;
} RELOCATED;

/* struct in6_addr, which is never looked into */
struct ipv6_words {
	unsigned int words[4];
};

struct sock_common {
	unsigned int skc_daddr;
	unsigned int skc_rcv_saddr;
	unsigned short skc_dport; /* network order */
	unsigned short skc_num;	  /* host order */
	unsigned short skc_family;
	struct ipv6_words skc_v6_daddr;
	struct ipv6_words skc_v6_rcv_saddr;
	unsigned char skc_ipv6only : 1;
	volatile unsigned char skc_state;
	struct counter64 skc_cookie;
} RELOCATED;

struct sock {
	struct sock_common __sk_common;
	unsigned int sk_mark;
	unsigned char sk_userlocks : 4; /* a bit-field before 6.2 or so, a byte since */
} RELOCATED;

struct inet_sock {
	struct sock sk;
} RELOCATED;

struct udp_sock {
	struct inet_sock inet;
} RELOCATED;

struct mptcp_sock {
	struct sock *first; /* its first subflow; of a listener, the one that listens */
} RELOCATED;

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} RELOCATED;

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
} RELOCATED;

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
} RELOCATED;

struct kernel_uid {
	unsigned int val;
} RELOCATED;

struct cred {
	struct kernel_uid uid;
} RELOCATED;

struct task_struct {
	int tgid;
	char comm[16];
	const struct cred *cred;
} RELOCATED;

#endif
