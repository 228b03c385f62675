/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The connection table behind three functions: connection_slot, follow_connection,
 * remember_connection. `hash` is always hash_of() of the same flow.
 */
#ifndef ANYPORT_CONNECTIONS_H
#define ANYPORT_CONNECTIONS_H

#include "flow_hash.h"
#include "maps.h"
#include "parse.h"
#include "selection.h"

#define LIVELY_NS (60ULL * 1000 * 1000 * 1000)

static __always_inline bool has_target(const struct route *route, __u32 slot)
{
	return slot < MAX_HOSTS && route->hosts >> slot & 1;
}

/* Signed: another CPU may have seen a packet since we asked for the time. */
static __always_inline bool is_idle(const struct packet *packet,
				    const struct connection *connection)
{
	__s64 silent = bpf_ktime_get_boot_ns() - connection->seen_ns;

	return silent >= (__s64)packet->udp_idle_ns;
}

/*
 * A SYN that comes late, or is forged, must not move a live connection from a
 * target that has closed its listener. If the SYN is of a new connection, the
 * target challenges it (RFC 5961, 4), the client resets the old one, and its
 * next SYN is selected anew; if the target knows nothing either, it resets. A
 * connection silent for longer may have died with its target unseen.
 */
static __always_inline bool is_lively(const struct connection *connection)
{
	return connection->state == CONNECTION_ESTABLISHED &&
	       bpf_ktime_get_boot_ns() - connection->seen_ns < LIVELY_NS;
}

/*
 * R6. What follows in a connection stays with its target, also after the port
 * lost that target or its route. What may begin one (a SYN: retransmitted, or
 * of a new connection from the same port; any datagram) stays while that host
 * is still a target; else it would go to a closed port for ever. A UDP flow that
 * was silent for as long as the definition says is a new one.
 */
static __always_inline bool stays(const struct connection *connection, const struct packet *packet,
				  const struct route *route)
{
	if (!packet->opens || (packet->flow.protocol == TCP && is_lively(connection)))
		return true;
	if (packet->flow.protocol == UDP && is_idle(packet, connection))
		return false;
	if (route->kind == ROUTE_NONE)
		return packet->flow.protocol == UDP;
	return has_target(route, connection->slot);
}

static __always_inline void touch(struct connection *connection, const struct packet *packet)
{
	bool syn = packet->opens && packet->flow.protocol == TCP;

	connection->seen_ns = bpf_ktime_get_boot_ns();
	if (packet->closes)
		connection->state = CONNECTION_CLOSING;
	else if (syn && connection->state == CONNECTION_CLOSING)
		connection->state = CONNECTION_NEW;
	else if (!syn && connection->state == CONNECTION_NEW)
		connection->state = CONNECTION_ESTABLISHED;
}

/* The slot of the flow's connection, NO_SLOT if none is known; not a sign of life. */
static __always_inline __u32 connection_slot(const struct flow *flow, __u64 hash)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, flow);

	return connection ? connection->slot : NO_SLOT;
}

/* The slot that the packet follows its connection to, which lives on by it; else NO_SLOT. */
static __always_inline __u32 follow_connection(const struct packet *packet,
					       const struct route *route, __u64 hash)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &packet->flow);

	if (!connection || !stays(connection, packet, route))
		return NO_SLOT;
	touch(connection, packet);
	return connection->slot;
}

/* The slot that holds: two CPUs may remember one flow at once, the first is right. */
static __always_inline __u32 insert(const struct flow *flow, __u32 slot)
{
	struct connection fresh = {.seen_ns = bpf_ktime_get_boot_ns(), .slot = slot};
	struct connection *first;

	if (!bpf_map_update_elem(&connections, flow, &fresh, BPF_NOEXIST))
		return slot;
	first = bpf_map_lookup_elem(&connections, flow);
	return first ? first->slot : slot;
}

static __always_inline __u32 replace(struct connection *connection, __u32 slot)
{
	__u32 old = connection->slot;
	__u32 found = __sync_val_compare_and_swap(&connection->slot, old, slot);

	connection->seen_ns = bpf_ktime_get_boot_ns();
	connection->state = CONNECTION_NEW;
	return found == old ? slot : found;
}

/* A new connection to `slot`, instead of one that does not stay; the slot that holds. */
static __always_inline __u32 remember_connection(const struct flow *flow, __u32 slot, __u64 hash)
{
	struct connection *stale = bpf_map_lookup_elem(&connections, flow);

	return stale ? replace(stale, slot) : insert(flow, slot);
}

#endif
