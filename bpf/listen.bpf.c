/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every host: sees listeners open and close (R2-R4), hands out block ports at
 * bind(VIP, 0) (R7), and refuses what no listener that counts asked for (R8).
 *
 * Attached to the host's cgroup2 root, sk_lookup to its network namespace. All
 * fail open: what can't be looked up is let through, as without anyport.
 * bind(VIP, 0) alone fails closed, for a port that is not unique would be
 * another host's.
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "kernel.h"

/* From headers that do not get along with linux/bpf.h. */
#define AF_INET		   2
#define AF_INET6	   10
#define SOL_TCP		   6
#define IPPROTO_TCP	   6
#define IPPROTO_UDP	   17
#define IPPROTO_MPTCP	   262
#define EEXIST		   17
#define EADDRINUSE	   98
#define SOCK_OPS_CB_FLAGS  1008
#define SOCK_BINDADDR_LOCK 4
#define SOCK_BINDPORT_LOCK 8
#define NO_PROTOCOL	   PROTOCOLS

#include "listen_maps.h"
#include "listen_sockets.h"
#include "listen_ports.h"

/* bpf_skc_to_tcp_sock, bpf_ringbuf in sockops: for programs under the GPL only. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline __u32 protocol_of(__u32 ip_protocol)
{
	if (ip_protocol == IPPROTO_TCP || ip_protocol == IPPROTO_MPTCP)
		return TCP;
	return ip_protocol == IPPROTO_UDP ? UDP : NO_PROTOCOL;
}

/* ---- TCP: by listen ---- */

static __always_inline void fill_tcp(struct bpf_sock_ops *ctx, struct listening_socket *socket)
{
	void *tcp = ctx->sk ? bpf_skc_to_tcp_sock(ctx->sk) : NULL;

	socket->protocol = TCP;
	socket->port = ctx->local_port;
	if (ctx->family == AF_INET) {
		socket->address = mapped(ctx->local_ip4);
		return;
	}
	socket->address = ipv6(ctx->local_ip6);
	if (tcp && is_v6only(tcp))
		socket->flags = SOCKET_V6ONLY;
}

static __always_inline void listening(struct bpf_sock_ops *ctx)
{
	struct listening_socket socket = {};

	if (bpf_get_netns_cookie(ctx) != netns_cookie)
		return;
	fill_tcp(ctx, &socket);
	if (!relevant(&socket))
		return;
	fill_process(&socket);
	opened(bpf_get_socket_cookie(ctx), &socket);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* A child inherits our flag; left on, each of its state changes would run us. */
static __always_inline void accepted(struct bpf_sock_ops *ctx)
{
	__u32 flags = ctx->bpf_sock_ops_cb_flags;

	if (flags & BPF_SOCK_OPS_STATE_CB_FLAG && bpf_get_netns_cookie(ctx) == netns_cookie)
		bpf_sock_ops_cb_flags_set(ctx, flags & ~BPF_SOCK_OPS_STATE_CB_FLAG);
}

SEC("sockops")
int tcp_listeners(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		listening(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[0] == BPF_TCP_LISTEN)
			closed(bpf_get_socket_cookie(ctx));
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		accepted(ctx);
		break;
	}
	return 1;
}

/* ---- UDP: by bind; and the end of every socket ---- */

static __always_inline int bound_to(struct bpf_sock *ctx, struct listening_socket *socket)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct handed_port *port;

	/* ctx->mark is not for post_bind to read; ctx is the kernel's socket itself. */
	if (bpf_get_netns_cookie(ctx) != netns_cookie ||
	    BPF_CORE_READ((struct sock *)ctx, sk_mark) == TRIAL_MARK)
		return 1;
	port = bpf_map_lookup_elem(&handed, &cookie);
	if (port)
		port->bound = 1;
	if (protocol_of(ctx->protocol) != UDP || !relevant(socket))
		return 1;
	fill_process(socket);
	opened(cookie, socket);
	return 1;
}

SEC("cgroup/post_bind4")
int bound4(struct bpf_sock *ctx)
{
	struct listening_socket socket = {
		.address = mapped(ctx->src_ip4),
		.port = ctx->src_port,
		.protocol = UDP,
	};

	return bound_to(ctx, &socket);
}

SEC("cgroup/post_bind6")
int bound6(struct bpf_sock *ctx)
{
	struct listening_socket socket = {.port = ctx->src_port, .protocol = UDP};

	socket.address = ipv6(ctx->src_ip6);
	if (is_v6only(ctx))
		socket.flags = SOCKET_V6ONLY;
	return bound_to(ctx, &socket);
}

/*
 * A connected UDP socket receives from its peer alone. A connect() that fails
 * after this is put right by the next reconciliation.
 */
static __always_inline int connected(struct bpf_sock_addr *ctx)
{
	if (ctx->protocol == IPPROTO_UDP)
		closed(bpf_get_socket_cookie(ctx));
	return 1;
}

SEC("cgroup/connect4")
int connected4(struct bpf_sock_addr *ctx)
{
	return connected(ctx);
}

SEC("cgroup/connect6")
int connected6(struct bpf_sock_addr *ctx)
{
	return connected(ctx);
}

/* Cookie of the subflow that bound and listened for an MPTCP socket; 0: none. */
static __always_inline __u64 subflow_of(struct bpf_sock *ctx)
{
	if (ctx->protocol != IPPROTO_MPTCP || !bpf_core_field_exists(struct mptcp_sock, first))
		return 0;
	return BPF_CORE_READ((struct mptcp_sock *)ctx, first, __sk_common.skc_cookie.counter);
}

/* The last descriptor of a socket is closed. TCP listeners mostly told by STATE_CB. */
SEC("cgroup/sock_release")
int released(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx), subflow = subflow_of(ctx);

	if (subflow)
		cookie = subflow;
	closed(cookie);
	freed(cookie);
	return 1;
}

/* ---- bind ---- */

static __always_inline bool bind_is_ours(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk || bpf_get_netns_cookie(ctx) != netns_cookie || sk->mark == TRIAL_MARK)
		return false;
	/* Bound already: the kernel refuses. Its handed port must stay with it. */
	return sk->src_port == 0;
}

static __always_inline bool binds_v6only(struct bpf_sock_addr *ctx)
{
	void *tcp, *udp;

	if (!ctx->sk)
		return false;
	tcp = bpf_skc_to_tcp_sock(ctx->sk);
	if (tcp)
		return is_v6only(tcp);
	udp = bpf_skc_to_udp6_sock(ctx->sk);
	return udp && is_v6only(udp);
}

SEC("cgroup/bind4")
int binds4(struct bpf_sock_addr *ctx)
{
	struct address address = mapped(ctx->user_ip4);
	__u32 protocol = protocol_of(ctx->protocol);

	if (protocol == NO_PROTOCOL || !bind_is_ours(ctx))
		return 1;
	return bind_to(ctx, &address, false, protocol);
}

SEC("cgroup/bind6")
int binds6(struct bpf_sock_addr *ctx)
{
	__u32 protocol = protocol_of(ctx->protocol);
	struct address address;

	if (protocol == NO_PROTOCOL || !bind_is_ours(ctx))
		return 1;
	address = ipv6(ctx->user_ip6);
	return bind_to(ctx, &address, binds_v6only(ctx), protocol);
}

/* ---- packets without a socket yet: no leaks (R8) ---- */

static __always_inline bool counts(const struct endpoint *endpoint,
				   const struct definition *definition)
{
	struct port_word *word = word_of(definition->index, endpoint->protocol, endpoint->port);
	__u32 *listening_there;

	if (!word || has_port(word->enumerated, endpoint->port))
		return true; /* R3: whatever listens, wildcards too */
	if (definition->flags & DEFINITION_ENUMERATED && !has_port(word->own, endpoint->port))
		return false;
	listening_there = bpf_map_lookup_elem(&bound, endpoint);
	return listening_there && *listening_there; /* R2 */
}

/*
 * Runs for what no established or connected socket took: new connections and
 * datagrams. SK_PASS is the kernel's own lookup; SK_DROP makes it answer with
 * RST or port unreachable.
 */
SEC("sk_lookup")
int leaks(struct bpf_sk_lookup *ctx)
{
	struct endpoint endpoint = {.port = ctx->local_port};
	struct definition *definition;

	endpoint.protocol = ctx->protocol == IPPROTO_TCP ? TCP : UDP;
	if (ctx->family == AF_INET) {
		endpoint.address = mapped(ctx->local_ip4);
	} else {
		endpoint.address = ipv6(ctx->local_ip6);
	}
	definition = bpf_map_lookup_elem(&definitions, &endpoint.address);
	if (!definition || counts(&endpoint, definition))
		return SK_PASS;
	count(LISTEN_LEAKS_REFUSED);
	return SK_DROP;
}

/* ---- called by Python ---- */

/* What the programs above missed, by the same path; tells the same events. */
SEC("syscall")
int reconcile(struct reconcile_request *request)
{
	struct listening_socket socket = request->socket;
	__u64 cookie = request->cookie;

	/* Use the copy: the verifier refuses offsets upon a moved context pointer. */
	asm volatile("" : "+m"(socket));
	switch (request->operation) {
	case RECONCILE_OPENED:
		if (!relevant(&socket))
			return RECONCILE_UNCHANGED;
		return opened(cookie, &socket) ? RECONCILE_RECORDED : RECONCILE_UNCHANGED;
	case RECONCILE_CLOSED:
		return closed(cookie) ? RECONCILE_REMOVED : RECONCILE_UNCHANGED;
	case RECONCILE_FREED:
		return freed(cookie) ? RECONCILE_REMOVED : RECONCILE_UNCHANGED;
	}
	return RECONCILE_UNCHANGED;
}

/*
 * Gives recorded listeners that are older than anyport (or than their
 * definition) the flag that tells of their closing. Listeners come first: one
 * byte is written at the first other socket, so that the reader can stop.
 */
SEC("iter/tcp")
int adopt(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	int flags = 0;
	__u64 cookie;
	void *tcp;

	if (!common)
		return 0;
	if (common->skc_state != BPF_TCP_LISTEN) {
		bpf_seq_write(ctx->meta->seq, "", 1);
		return 0;
	}
	cookie = bpf_get_socket_cookie(common);
	tcp = bpf_skc_to_tcp_sock(common);
	if (!tcp || !bpf_map_lookup_elem(&sockets, &cookie))
		return 0;
	bpf_getsockopt(tcp, SOL_TCP, SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
	flags |= BPF_SOCK_OPS_STATE_CB_FLAG;
	bpf_setsockopt(tcp, SOL_TCP, SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
	return 0;
}

/*
 * Writes the cookies of UDP sockets that a program bound: no dump of sock_diag
 * tells them from those that only sent. bind(wildcard, 0) looks like the latter.
 */
SEC("iter/udp")
int explicit_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = ctx->udp_sk;
	__u64 cookie;

	if (!udp)
		return 0;
	if (!(BPF_CORE_READ_BITFIELD_PROBED(&udp->inet.sk, sk_userlocks) &
	      (SOCK_BINDADDR_LOCK | SOCK_BINDPORT_LOCK)))
		return 0;
	cookie = bpf_get_socket_cookie(udp);
	bpf_seq_write(ctx->meta->seq, &cookie, sizeof(cookie));
	return 0;
}
