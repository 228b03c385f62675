/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which sockets are of concern, and their opening and closing. All programs,
 * `reconcile` included, come through opened() and closed(): whoever really
 * inserts or deletes the entry of `sockets` counts and tells, nobody else, so
 * each socket opens once and closes once (R4).
 */
#ifndef ANYPORT_LISTEN_SOCKETS_H
#define ANYPORT_LISTEN_SOCKETS_H

#define MAPPED_PREFIX bpf_htonl(0xffff)

static __always_inline struct address mapped(__u32 ipv4)
{
	return (struct address){{0, 0, MAPPED_PREFIX, ipv4}};
}

/*
 * An IPv6 address of a context. Volatile: the verifier wants each load at a
 * constant offset, and clang would merge one with the IPv4 branch's.
 */
static __always_inline struct address ipv6(const volatile __u32 *words)
{
	return (struct address){{words[0], words[1], words[2], words[3]}};
}

static __always_inline bool is_mapped(const struct address *a)
{
	return !a->words[0] && !a->words[1] && a->words[2] == MAPPED_PREFIX;
}

static __always_inline bool is_ipv6_wildcard(const struct address *a)
{
	return !a->words[0] && !a->words[1] && !a->words[2] && !a->words[3];
}

static __always_inline bool is_wildcard(const struct address *a)
{
	return is_ipv6_wildcard(a) || (is_mapped(a) && !a->words[3]);
}

/* Would a socket bound to this wildcard get packets to this VIP? */
static __always_inline bool takes(const struct address *wildcard, bool v6only,
				  const struct address *vip)
{
	if (is_mapped(vip))
		return is_mapped(wildcard) || !v6only;
	return !is_mapped(wildcard);
}

static __always_inline bool tell(__u64 cookie, enum event_kind kind,
				 const struct listening_socket *socket)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count(LISTEN_EVENTS_LOST);
		return false;
	}
	event->cookie = cookie;
	event->kind = kind;
	event->pad = 0;
	event->socket = *socket;
	bpf_ringbuf_submit(event, 0);
	return true;
}

/* A wildcard and its port, asked about each definition in turn. */
struct wildcard {
	struct address address;
	__u32 protocol;
	__u32 port;
	bool v6only;
	bool enumerated; /* answer: by some VIP that it takes */
	bool own;	 /* answer: in a block of ours, and unique */
};

static long ask(void *map, const struct address *vip, struct definition *definition,
		struct wildcard *wildcard)
{
	struct port_word *word;

	if (!takes(&wildcard->address, wildcard->v6only, vip))
		return 0;
	word = word_of(definition->index, wildcard->protocol, wildcard->port);
	if (!word)
		return 0;
	wildcard->enumerated |= has_port(word->enumerated, wildcard->port);
	wildcard->own |= has_port(word->own & ~word->enumerated, wildcard->port);
	return 0;
}

static __always_inline void ask_definitions(struct wildcard *wildcard)
{
	bpf_for_each_map_elem(&definitions, ask, wildcard, 0);
}

/*
 * R2, R3, and a little more: whatever is bound to a VIP, and wildcards on a
 * port that some definition enumerates. Python decides what counts.
 */
static __always_inline bool relevant(const struct listening_socket *socket)
{
	struct wildcard wildcard = {
		.address = socket->address,
		.protocol = socket->protocol,
		.port = socket->port,
		.v6only = socket->flags & SOCKET_V6ONLY,
	};

	if (!is_wildcard(&wildcard.address))
		return bpf_map_lookup_elem(&definitions, &wildcard.address) != NULL;
	ask_definitions(&wildcard);
	return wildcard.enumerated;
}

static __always_inline struct endpoint endpoint_of(const struct listening_socket *socket)
{
	return (struct endpoint){
		.address = socket->address, .port = socket->port, .protocol = socket->protocol};
}

static __always_inline bool count_up(const struct listening_socket *socket)
{
	struct endpoint endpoint = endpoint_of(socket);
	__u32 none = 0, *sockets_there;

	sockets_there = bpf_map_lookup_elem(&bound, &endpoint);
	if (!sockets_there) {
		bpf_map_update_elem(&bound, &endpoint, &none, BPF_NOEXIST);
		sockets_there = bpf_map_lookup_elem(&bound, &endpoint);
	}
	if (!sockets_there)
		return false;
	__sync_fetch_and_add(sockets_there, 1);
	return true;
}

static __always_inline void count_down(const struct listening_socket *socket)
{
	struct endpoint endpoint = endpoint_of(socket);
	__u32 *sockets_there = bpf_map_lookup_elem(&bound, &endpoint);

	if (sockets_there)
		__sync_fetch_and_sub(sockets_there, 1);
}

/* True if it is recorded now and was not before. */
static __always_inline bool opened(__u64 cookie, const struct listening_socket *socket)
{
	/* Not long: before Linux 6.4 only the lower 32 bits of it are set. */
	int error = bpf_map_update_elem(&sockets, &cookie, socket, BPF_NOEXIST);

	if (error == -EEXIST)
		return false;
	if (error) {
		count(LISTEN_SOCKETS_FULL);
		return false;
	}
	if (!count_up(socket)) {
		count(LISTEN_SOCKETS_FULL);
		bpf_map_delete_elem(&sockets, &cookie);
		return false;
	}
	count(LISTEN_OPENED);
	tell(cookie, EVENT_OPENED, socket);
	return true;
}

/* True if it was recorded, and this call is the one that removed it. */
static __always_inline bool closed(__u64 cookie)
{
	struct listening_socket *entry = bpf_map_lookup_elem(&sockets, &cookie), socket;

	if (!entry)
		return false;
	socket = *entry; /* its memory may be another's once it is deleted */
	if (bpf_map_delete_elem(&sockets, &cookie))
		return false;
	count_down(&socket);
	count(LISTEN_CLOSED);
	tell(cookie, EVENT_CLOSED, &socket);
	return true;
}

/* Who made the call that we are called from. */
static __always_inline void fill_process(struct listening_socket *socket)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	socket->uid = BPF_CORE_READ(task, cred, uid.val);
	socket->pid = BPF_CORE_READ(task, tgid);
	BPF_CORE_READ_STR_INTO(&socket->comm, task, comm);
}

/* `sock`: anything that points to the kernel's struct sock_common. */
static __always_inline bool is_v6only(void *sock)
{
	return BPF_CORE_READ_BITFIELD_PROBED((struct sock_common *)sock, skc_ipv6only);
}

#endif
