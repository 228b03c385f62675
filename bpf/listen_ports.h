/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bind(): block ports handed out, tied to the socket's cookie, and defended (R7). */
#ifndef ANYPORT_LISTEN_PORTS_H
#define ANYPORT_LISTEN_PORTS_H

/* Ports of a block that is no longer ours, skipped per bind; Python clears the rest. */
#define STALE_PORTS 32

static __always_inline void tell_port(__u64 cookie, enum event_kind kind, const struct address *vip,
				      __u32 protocol, __u32 port)
{
	struct listening_socket socket = {.address = *vip, .port = port, .protocol = protocol};

	fill_process(&socket);
	tell(cookie, kind, &socket);
}

/* True if a port was handed to this socket, and this call is the one that took it back. */
static __always_inline bool freed(__u64 cookie)
{
	struct handed_port *entry = bpf_map_lookup_elem(&handed, &cookie), port;

	if (!entry)
		return false;
	port = *entry;
	if (bpf_map_delete_elem(&handed, &cookie))
		return false;
	tell_port(cookie, EVENT_FREED, &port.vip, port.protocol, port.port);
	return true;
}

/* After the deadline another host may already own our blocks. No settings: not yet allowed. */
static __always_inline bool may_hand_out(void)
{
	__u32 key = 0;
	struct settings *s = bpf_map_lookup_elem(&settings, &key);

	return s && bpf_ktime_get_boot_ns() < s->handout_deadline_ns;
}

/*
 * A free port of our own blocks; 0: none. Two CPUs never pop the same. A port
 * that is not ours any more, or not unique, is let go, and told, or Python would
 * count it free.
 */
static __always_inline __u32 pop_port(const struct address *vip, __u32 index, __u32 protocol)
{
	__u32 key = index * PROTOCOLS + protocol, port = 0;
	void *pool = bpf_map_lookup_elem(&pools, &key);
	struct port_word *word;

	if (!pool)
		return 0;
	for (int i = 0; i < STALE_PORTS; i++) {
		if (bpf_map_pop_elem(pool, &port))
			return 0;
		word = word_of(index, protocol, port);
		if (word && has_port(word->own & ~word->enumerated, port))
			return port;
		tell_port(0, EVENT_FREED, vip, protocol, port);
	}
	return 0;
}

static __always_inline bool record_handed(__u64 cookie, const struct address *vip, __u32 protocol,
					  __u32 port)
{
	struct handed_port entry = {
		.vip = *vip,
		.since_ns = bpf_ktime_get_boot_ns(),
		.port = port,
		.protocol = protocol,
	};

	return bpf_map_update_elem(&handed, &cookie, &entry, BPF_NOEXIST) == 0;
}

/* A port for bind(VIP, 0); 0: there is none, and that has been told. */
static __always_inline __u32 hand_out(__u64 cookie, const struct address *vip, __u32 index,
				      __u32 protocol)
{
	__u32 port;

	freed(cookie); /* handed before, and that bind failed */
	port = may_hand_out() ? pop_port(vip, index, protocol) : 0;
	if (!port || !record_handed(cookie, vip, protocol, port)) {
		count(LISTEN_PORTS_EXHAUSTED);
		tell_port(cookie, EVENT_EXHAUSTED, vip, protocol, 0);
		return 0;
	}
	count(LISTEN_PORTS_HANDED);
	tell_port(cookie, EVENT_HANDED, vip, protocol, port);
	return port;
}

/*
 * An explicit bind that would take a port out of the allocator's hands: of the
 * VIP within any host's block, or of the wildcard within ours (every socket
 * that is then handed the port would get EADDRINUSE).
 */
static __always_inline bool is_defended(const struct address *address, bool v6only, __u32 protocol,
					__u32 port)
{
	struct wildcard wildcard = {
		.address = *address,
		.protocol = protocol,
		.port = port,
		.v6only = v6only,
	};
	struct definition *definition;
	struct port_word *word;

	if (is_wildcard(address)) {
		ask_definitions(&wildcard);
		return wildcard.own;
	}
	definition = bpf_map_lookup_elem(&definitions, address);
	word = definition ? word_of(definition->index, protocol, port) : NULL;
	/* A definition may come to enumerate ports of a block: then they are anybody's again. */
	return word && has_port(word->leased & ~word->enumerated, port);
}

static __always_inline int refuse(void)
{
	bpf_set_retval(-EADDRINUSE);
	return 0;
}

/* What cgroup/bind4 and bind6 do once the address is in one form; 1: go on, 0: refuse. */
static __always_inline int bind_to(struct bpf_sock_addr *ctx, const struct address *address,
				   bool v6only, __u32 protocol)
{
	__u32 port = bpf_ntohs(ctx->user_port);
	struct definition *definition;

	if (port) {
		if (!is_defended(address, v6only, protocol, port))
			return 1;
		count(LISTEN_BINDS_REFUSED);
		return refuse();
	}
	definition = bpf_map_lookup_elem(&definitions, address);
	if (!definition)
		return 1;
	port = hand_out(bpf_get_socket_cookie(ctx), address, definition->index, protocol);
	if (!port)
		return refuse();
	ctx->user_port = bpf_htons(port);
	return 1;
}

#endif
