/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The connection table: buckets of a few entries in an array, and each flow may
 * stand in either of two of them (docs/adr/0010). To the decision it is home_of
 * and three functions: connection_slot, follow_connection, remember_connection.
 *
 * Several CPUs at once take no lock:
 *
 *   word   is changed by compare-and-swap, or by the CPU that has the entry CLAIMED.
 *   life   is changed by compare-and-swap, or plainly where a connection begins anew
 *          in its own entry; a change that is lost does not matter.
 *   rest   is written by the CPU that has the entry CLAIMED.
 *
 * The slot is in one word with the tag, so the two are always of one connection;
 * an entry that is replaced, or claimed for a moment, while its rest is compared is at
 * worst not found: that packet goes where the hash says.
 *
 * Functions that are not static: so the verifier looks at each once.
 */
#ifndef ANYPORT_CONNECTIONS_H
#define ANYPORT_CONNECTIONS_H

#include "flow_hash.h"
#include "maps.h"
#include "parse.h"
#include "selection.h"

#define CLAIMED 1 /* a word without WORD_USED: nobody's connection, and not free */
#define TRIES	8 /* to claim an entry while others claim in the same buckets */

#define SEEN_MASK	((1u << SEEN_BITS) - 1)
#define LIFE(state, at) ((__u32)(state) << SEEN_BITS | ((at)&SEEN_MASK))
#define TICKS(seconds)	((seconds)*1000000000ULL >> TICK_SHIFT)

/*
 * What a table in want of room gives up, the first first; within a class the longest
 * silent. But of several new ones in a pair one goes before any that has ended: so a
 * flood of SYNs competes with itself, and one handshake under way is no flood.
 */
enum victim_class {
	VICTIM_FREE,
	VICTIM_RESET, /* by RST, then silent for ENDED_TICKS */
	VICTIM_ENDED, /* the same of FIN: over, or half-closed and idle; nothing here tells which */
	VICTIM_NEW,
	VICTIM_IDLE, /* established, and silent for so long that any NAT may have given it up */
	VICTIM_NEVER,
};

#define LIVELY_TICKS   TICKS(60)
#define ENDED_TICKS    TICKS(2)
#define IDLE_TCP_TICKS TICKS(7440) /* RFC 5382, REQ-5: 2 h 4 min */
#define IDLE_UDP_TICKS TICKS(300)  /* RFC 4787, REQ-5 */

/* A multiple of PAGE_BUCKETS; set at load, as the map's size is. */
const volatile __u32 bucket_count = PAGE_BUCKETS;

/* Where a flow may stand. Its ways are those of the first bucket, then of the second. */
struct home {
	__u64 word;	  /* the flow's, but for the slot */
	__u64 found_word; /* by follow_connection; 0: no entry */
	__u32 found_life; /* as it left it */
	__u32 first;
	__u32 second;
	__u32 pad; /* else a hole: kernel 6.1 refuses to pass what is not written */
};

struct pair {
	struct bucket *first;
	struct bucket *second;
};

#define WAYS	 (2 * BUCKET_WAYS)
#define NO_WAY	 WAYS
#define WAY_BITS 4

static __always_inline __u32 ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

/*
 * Multilinear hashing (Carter, Wegman 1979; Lemire, Kaser 2014): two flows that
 * were chosen without the key hardly ever have the same sum. Those in a row, such
 * as a client's ports, have sums in a row, hence mixed() afterwards. It costs a
 * fraction of hash_of(), whose outcome shows, as the target; where a flow
 * stands in the table shows nowhere.
 */
static __always_inline __u64 sum_of(const struct flow *flow, __u32 vip_row)
{
	__u32 zero = 0;
	struct table_key *key = bpf_map_lookup_elem(&table_key, &zero);
	const __u32 *client = flow->client.words;

	if (!key)
		return 0;
	return key->words[0] * client[0] + key->words[1] * client[1] + key->words[2] * client[2] +
	       key->words[3] * client[3] +
	       key->words[4] * ((__u32)flow->client_port << 16 | flow->port) +
	       key->words[5] * (vip_row * PROTOCOLS + flow->protocol);
}

/* Both buckets in one page, so that a flow that is new costs one walk of the page tables. */
static __always_inline struct home home_of(__u32 vip_row, const struct flow *flow)
{
	__u64 mix = mixed(sum_of(flow, vip_row));
	__u32 first = (mix >> 32) * bucket_count >> 32;

	return (struct home){
		.word = (mix & WORD_TAG) | WORD_USED | (__u64)flow->protocol << WORD_PROTOCOL |
			(__u64)vip_row << WORD_VIP,
		.first = first,
		.second = first ^ ((mix % PAGE_BUCKETS) | 1),
	};
}

static __always_inline bool find_pair(struct pair *pair, const struct home *home)
{
	__u32 first = home->first, second = home->second;

	pair->first = bpf_map_lookup_elem(&connections, &first);
	pair->second = bpf_map_lookup_elem(&connections, &second);
	return pair->first && pair->second;
}

static __always_inline struct connection *entry_at(const struct pair *pair, __u32 way)
{
	struct bucket *bucket = way < BUCKET_WAYS ? pair->first : pair->second;

	return &bucket->ways[way % BUCKET_WAYS];
}

static __always_inline __u64 load_word(const struct connection *entry)
{
	return *(const volatile __u64 *)&entry->word;
}

static __always_inline __u32 load_life(const struct connection *entry)
{
	return *(const volatile __u32 *)&entry->life;
}

static __always_inline bool swap_word(struct connection *entry, __u64 old, __u64 new)
{
	return __sync_val_compare_and_swap(&entry->word, old, new) == old;
}

static __always_inline void store_word(struct connection *entry, __u64 word)
{
	*(volatile __u64 *)&entry->word = word;
}

/* All but the slot. */
static __always_inline bool is_same(__u64 word, const struct home *home)
{
	return (word ^ home->word) < MAX_HOSTS;
}

static __always_inline __u32 slot_of(__u64 word)
{
	return word % MAX_HOSTS;
}

static __always_inline __u32 row_of(__u64 word)
{
	return (word >> WORD_VIP) % MAX_VIPS;
}

static __always_inline bool is_flow(const struct connection *entry, const struct flow *flow)
{
	const __u64 *a = (const __u64 *)&entry->client, *b = (const __u64 *)&flow->client;

	return a[0] == b[0] && a[1] == b[1] && entry->client_port == flow->client_port &&
	       entry->port == flow->port;
}

/* The flow's entry, and its word as it was read once; else NULL. */
static __always_inline struct connection *find(const struct pair *pair, const struct home *home,
					       const struct flow *flow, __u64 *word)
{
#pragma unroll
	for (__u32 way = 0; way < WAYS; way++) {
		struct connection *entry = entry_at(pair, way);

		*word = load_word(entry);
		if (is_same(*word, home) && is_flow(entry, flow))
			return entry;
	}
	return NULL;
}

static __always_inline bool has_target(const struct route *route, __u32 slot)
{
	return slot < MAX_HOSTS && route->hosts >> slot & 1;
}

/* For how long, in ticks. Heard of after `now`, by another CPU, is not silent at all. */
static __always_inline __u32 silence(__u32 life, __u32 now)
{
	__u32 silent = (now - life) & SEEN_MASK;

	return silent > SEEN_MASK / 2 ? 0 : silent;
}

/*
 * A SYN that comes late, or is forged, must not move a live connection from a
 * target that has closed its listener. If the SYN is of a new connection, the
 * target challenges it (RFC 5961, 4), the client resets the old one, and its
 * next SYN is selected anew; if the target knows nothing either, it resets. A
 * connection silent for longer may have died with its target unseen.
 */
static __always_inline bool is_lively(__u32 life, __u32 now)
{
	return life >> SEEN_BITS == CONNECTION_ESTABLISHED && silence(life, now) < LIVELY_TICKS;
}

/*
 * R6. What follows in a connection stays with its target, also after the port
 * lost that target or its route. What may begin one (a SYN: retransmitted, or
 * of a new connection from the same port; any datagram) stays while that host
 * is still a target; else it would go to a closed port for ever. A UDP flow that
 * was silent for as long as the definition says is a new one.
 */
static __always_inline bool stays(const struct home *found, __u32 now, const struct packet *packet,
				  const struct route *route)
{
	__u64 silent_ns = (__u64)silence(found->found_life, now) << TICK_SHIFT;

	if (!packet->opens)
		return true;
	if (packet->flow.protocol == TCP && is_lively(found->found_life, now))
		return true;
	if (packet->flow.protocol == UDP && silent_ns >= packet->udp_idle_ns)
		return false;
	if (route->kind == ROUTE_NONE)
		return packet->flow.protocol == UDP;
	return has_target(route, slot_of(found->found_word));
}

static __always_inline __u32 next_state(__u32 state, __u32 silent, const struct packet *packet)
{
	bool syn = packet->opens && packet->flow.protocol == TCP;
	/* What comes later was not under way: the RST was forged, and not believed (RFC 5961 3). */
	bool reset = state == CONNECTION_RESET && silent < ENDED_TICKS;

	if (packet->resets)
		return CONNECTION_RESET;
	if (syn && state >= CONNECTION_CLOSING)
		return CONNECTION_NEW;
	if (packet->closes && !reset)
		return CONNECTION_CLOSING;
	if (!syn && !reset && state != CONNECTION_CLOSING)
		return CONNECTION_ESTABLISHED;
	return state;
}

/* Mostly writes nothing: a tick is long, and the line stays with every CPU that reads it. */
static __always_inline __u32 touch(struct connection *entry, __u32 life, __u32 now,
				   const struct packet *packet)
{
	__u32 next = LIFE(next_state(life >> SEEN_BITS, silence(life, now), packet), now);

	if (next != life)
		__sync_val_compare_and_swap(&entry->life, life, next);
	return next;
}

/* The slot of the flow's connection, NO_SLOT if none is known; not a sign of life. */
static __always_inline __u32 connection_slot(const struct home *home, const struct flow *flow)
{
	struct pair pair;
	__u64 word;

	if (!find_pair(&pair, home))
		return NO_SLOT;
	return find(&pair, home, flow, &word) ? slot_of(word) : NO_SLOT;
}

/* The slot that the packet follows its connection to, which lives on by it; else NO_SLOT. */
static __always_inline __u32 follow_connection(struct home *home, const struct packet *packet,
					       const struct route *route)
{
	__u32 now = ticks();
	struct connection *entry;
	struct pair pair;
	__u64 word;

	if (!find_pair(&pair, home))
		return NO_SLOT;
	entry = find(&pair, home, &packet->flow, &word);
	if (!entry)
		return NO_SLOT;
	home->found_word = word;
	home->found_life = load_life(entry);
	if (!stays(home, now, packet, route))
		return NO_SLOT;
	home->found_life = touch(entry, home->found_life, now, packet);
	return slot_of(word);
}

static __always_inline enum victim_class class_of(__u64 word, __u32 state, __u32 silent)
{
	__u32 idle = word >> WORD_PROTOCOL & 1 ? IDLE_UDP_TICKS : IDLE_TCP_TICKS;

	if (!word)
		return VICTIM_FREE;
	if (word == CLAIMED)
		return VICTIM_NEVER;
	if (state == CONNECTION_NEW)
		return VICTIM_NEW;
	if (state == CONNECTION_RESET)
		return silent >= ENDED_TICKS ? VICTIM_RESET : VICTIM_NEVER;
	if (state == CONNECTION_CLOSING)
		return silent >= ENDED_TICKS ? VICTIM_ENDED : VICTIM_NEVER;
	return silent >= idle ? VICTIM_IDLE : VICTIM_NEVER;
}

/* The less, the sooner given up. */
static __always_inline __u64 worth(__u64 word, __u32 life, __u32 now)
{
	__u64 silent = silence(life, now);

	return (__u64)class_of(word, life >> SEEN_BITS, silent) << SEEN_BITS | (SEEN_MASK - silent);
}

/*
 * The same number, as it is xored twice, but the verifier has lost sight of it: else
 * it follows every class apart.
 */
static __always_inline __u64 unknown(__u64 number, __u64 any)
{
	asm volatile("%0 ^= %1; %0 ^= %1" : "+r"(number) : "r"(any));
	return number;
}

#define COST(class) ((__u64)(class) << SEEN_BITS << WAY_BITS)

/*
 * The way to give up, NO_WAY if all have to stay. Without branches that the verifier
 * would double: the least of those that are NEW or more is found by a subtraction
 * that makes all below wrap round to huge numbers; how many there are of each class,
 * in a byte each of one number.
 */
static __always_inline __u32 victim(const struct pair *pair, __u64 any, __u32 now)
{
	__u64 least = unknown(COST(VICTIM_NEVER) | NO_WAY, any);
	__u64 least_new = unknown(COST(VICTIM_NEVER), any); /* above COST(VICTIM_NEW) */
	__u64 of_class = 0;				    /* how many there are: a byte each */

#pragma unroll
	for (__u32 way = 0; way < WAYS; way++) {
		struct connection *entry = entry_at(pair, way);
		__u64 cost = worth(load_word(entry), load_life(entry), now) << WAY_BITS | way;

		cost = unknown(cost, any);
		if (cost < least)
			least = cost;
		if (cost - COST(VICTIM_NEW) < least_new)
			least_new = cost - COST(VICTIM_NEW);
		of_class += 1ULL << (cost >> SEEN_BITS >> WAY_BITS) * 8;
	}
	if (least >= COST(VICTIM_ENDED) && (of_class >> VICTIM_NEW * 8 & 0xff) > 1)
		least = least_new;
	return least % (1 << WAY_BITS);
}

/*
 * Whether this CPU is the only one that has claimed an entry of the pair, and the
 * flow has none. Each looks after its claim, which is a full barrier: so of two at
 * once at least one sees the other, and whoever sees another withdraws.
 */
static __always_inline bool alone(const struct pair *pair, const struct home *home, __u32 claimed)
{
#pragma unroll
	for (__u32 way = 0; way < WAYS; way++) {
		__u64 word = load_word(entry_at(pair, way));

		if (way != claimed && (word == CLAIMED || is_same(word, home)))
			return false;
	}
	return true;
}

static __always_inline void write(struct connection *entry, const struct flow *flow, __u64 word,
				  __u32 life)
{
	entry->client = flow->client;
	entry->client_port = flow->client_port;
	entry->port = flow->port;
	entry->life = life;
	/* Who sees the word before the rest does not know the flow yet: no barrier is needed. */
	store_word(entry, word);
}

/* The slot that holds, of this CPU or of one that was faster; NO_SLOT if there is no room. */
__noinline __u32 insert_connection(const struct home *home, const struct flow *flow, __u32 slot,
				   __u32 life)
{
	struct pair pair;
	__u64 known;

	if (!home || !flow || slot >= MAX_HOSTS || !find_pair(&pair, home))
		return NO_SLOT;
	for (__u32 i = 0; i < TRIES; i++) {
		__u32 way = victim(&pair, home->word, life);
		struct connection *entry = entry_at(&pair, way);
		__u64 old = load_word(entry);

		if (way >= NO_WAY)
			return NO_SLOT;
		if (old == CLAIMED || !swap_word(entry, old, CLAIMED))
			continue;
		if (alone(&pair, home, way)) {
			write(entry, flow, home->word | slot, life);
			return slot;
		}
		store_word(entry, old);
		if (find(&pair, home, flow, &known))
			return slot_of(known);
	}
	return NO_SLOT;
}

/* The same for an entry that follow_connection found: its target is another from now on. */
__noinline __u32 renew_connection(const struct home *home, const struct flow *flow, __u32 slot,
				  __u32 life)
{
	struct connection *entry;
	struct pair pair;
	__u64 known;

	if (!home || !flow || slot >= MAX_HOSTS || !find_pair(&pair, home))
		return NO_SLOT;
	entry = find(&pair, home, flow, &known);
	if (!entry)
		return NO_SLOT;
	if (known != home->found_word || load_life(entry) != home->found_life)
		return slot_of(known); /* another CPU was first */
	entry->life = life;
	if (swap_word(entry, known, home->word | slot))
		return slot;
	known = load_word(entry);
	return is_same(known, home) ? slot_of(known) : NO_SLOT;
}

/* A new connection to `slot`, after follow_connection: the slot that holds, NO_SLOT without room.
 */
static __always_inline __u32 remember_connection(const struct home *home, const struct flow *flow,
						 __u32 slot)
{
	__u32 life = LIFE(CONNECTION_NEW, ticks());

	return home->found_word ? renew_connection(home, flow, slot, life)
				: insert_connection(home, flow, slot, life);
}

#endif
