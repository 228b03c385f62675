/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments go where the packet goes that they are part of (docs/adr/0011). Only
 * the first shows the ports: it is decided as a packet, and its place noted. One
 * that comes before the first is held, and put back into the queue when it has
 * come. All this is rare, so it may cost; what it may not is to grow: places are
 * an LRU, held fragments a ring.
 */
#ifndef ANYPORT_FRAGMENTS_H
#define ANYPORT_FRAGMENTS_H

#include "decision.h"
#include "parse.h"

#define FRAGMENT_PLACES	    4096
#define HELD_FRAGMENTS	    512
#define HELD_BYTES	    2048 /* of a frame; a longer one is not held */
#define MOST_HELD	    64	 /* of one packet: 64 KiB in fragments of 1,280 bytes are 52 */
#define FRAGMENT_SILENCE_NS (2ULL * 1000 * 1000 * 1000) /* then the number is another packet's */

/* Instead of a host slot. */
#define PLACE_LOCAL   (MAX_HOSTS + 1) /* the local stack: refused, or not TCP or UDP */
#define PLACE_UNKNOWN (MAX_HOSTS + 2) /* the first has not come yet */

/* By what a receiver knows that fragments belong together: RFC 791 2.3, RFC 8200 4.5. */
struct fragment_key {
	struct address client;
	struct address vip;
	__u32 id;	/* network order */
	__u32 protocol; /* IPv4; in IPv6 only the first one's counts */
};

struct fragment_place {
	__u64 seen_ns; /* CLOCK_BOOTTIME of the last one */
	__u32 slot;
	__u32 waiting; /* 1 + position of the last one held; 0: none */
};

struct held_fragment {
	struct fragment_key key;
	__u32 length;
	__u32 next; /* as `waiting`: the one held before */
	__u8 bytes[HELD_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAGMENT_PLACES);
	__type(key, struct fragment_key);
	__type(value, struct fragment_place);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HELD_FRAGMENTS);
	__type(key, __u32);
	__type(value, struct held_fragment);
} held_fragments SEC(".maps");

__u32 held_so_far; /* the ring's end */

static __always_inline struct fragment_key fragment_key_of(const struct packet *packet)
{
	return (struct fragment_key){
		.client = packet->flow.client,
		.vip = packet->flow.vip,
		.id = packet->fragment_id,
		.protocol = packet->family == IPV4 ? packet->ip_protocol : 0,
	};
}

static __always_inline bool same_key(const struct fragment_key *a, const struct fragment_key *b)
{
	return same_address(&a->client, &b->client) && same_address(&a->vip, &b->vip) &&
	       a->id == b->id && a->protocol == b->protocol;
}

/*
 * Made if there is none. NULL: no memory is left for it. Not inline, as its frame is needed
 * here only: on Linux 6.1 all that call one another may have 512 bytes.
 */
static __noinline struct fragment_place *place_of(const struct packet *packet)
{
	struct fragment_key key = fragment_key_of(packet);
	__u64 now = bpf_ktime_get_boot_ns();
	struct fragment_place fresh = {.seen_ns = now, .slot = PLACE_UNKNOWN};
	struct fragment_place *place = bpf_map_lookup_elem(&fragments, &key);

	if (!place) {
		bpf_map_update_elem(&fragments, &key, &fresh, BPF_NOEXIST);
		return bpf_map_lookup_elem(&fragments, &key);
	}
	if ((__s64)(now - place->seen_ns) > (__s64)FRAGMENT_SILENCE_NS)
		*place = fresh;
	place->seen_ns = now;
	return place;
}

static __always_inline struct decision release(struct fragment_place *place, enum verdict otherwise)
{
	__u32 waiting = __sync_lock_test_and_set(&place->waiting, 0);
	struct decision released;

	if (!waiting)
		return decided(otherwise, DROP);
	released = decided(VERDICT_FRAGMENTS_RELEASED, RELEASE);
	released.waiting = waiting;
	return released;
}

/*
 * The first fragment is decided: where the others go. If some wait, it goes
 * back into the queue, and they behind it: then all find the place noted.
 */
static __always_inline struct decision place_first(struct fragment_place *place,
						   struct decision decision)
{
	struct decision released;

	if (!place || decision.action == DROP)
		return decision;
	place->slot = decision.action == PASS ? PLACE_LOCAL : decision.slot;
	released = release(place, decision.verdict);
	return released.action == RELEASE ? released : decision;
}

/* 0 unless it fits; else within bounds that Linux 6.1 sees, whatever the compiler does. */
static __always_inline __u32 held_length(__u32 length)
{
	__u32 last = length - 1;

	if (last >= HELD_BYTES)
		return 0;
	asm volatile("" : "+r"(last));
	return last + 1;
}

/* A copy of the frame, in the ring's next place: whoever is there, has waited longest. */
static __always_inline struct held_fragment *
keep(const struct frame *frame, const struct packet *packet, struct fragment_place *place)
{
	__u32 position = __sync_fetch_and_add(&held_so_far, 1) % HELD_FRAGMENTS;
	struct held_fragment *held = bpf_map_lookup_elem(&held_fragments, &position);
	__u32 length = held_length(frame->length);

	if (!held || !length || !load_tc(frame, 0, held->bytes, length))
		return NULL;
	held->length = length;
	held->key = fragment_key_of(packet);
	held->next = __sync_lock_test_and_set(&place->waiting, position + 1);
	return held;
}

/* Held; unless the first came meanwhile, on another CPU, and did not see it. */
static __always_inline struct decision hold(const struct frame *frame, const struct packet *packet,
					    struct fragment_place *place)
{
	struct held_fragment *held = keep(frame, packet, place);
	struct decision decision;

	if (!held)
		return decided(VERDICT_DROP_FRAGMENT, DROP);
	if (*(volatile __u32 *)&place->slot == PLACE_UNKNOWN)
		return decided(VERDICT_FRAGMENT_HELD, DROP);
	decision = release(place, VERDICT_FRAGMENT_HELD);
	if (decision.action == RELEASE)
		held->length = 0; /* the frame itself goes back, the copy need not */
	return decision;
}

#endif
