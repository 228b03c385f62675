/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps of listen.bpf.c, all pinned by name; bpf/README.md says who writes and who reads each. */
#ifndef ANYPORT_LISTEN_MAPS_H
#define ANYPORT_LISTEN_MAPS_H

#define MAX_SOCKETS (1 << 18)
#define MAX_HANDED  (1 << 17)
/* 65,535 openings at once (72 bytes each) fit. */
#define EVENT_BYTES (8 << 20)

/* Sockets of other network namespaces are not ours: set before load. */
const volatile __u64 netns_cookie = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VIPS);
	__type(key, struct address);
	__type(value, struct definition);
} definitions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VIPS *PROTOCOLS *PORT_WORDS);
	__type(key, __u32);
	__type(value, struct port_word);
} port_words SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SOCKETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct listening_socket);
} sockets SEC(".maps");

/*
 * Entries stay at 0: deleting one could lose the increment of another CPU, and
 * with it a listener. A VIP has 131,070 at most.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SOCKETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u32);
} bound SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_HANDED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct handed_port);
} handed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

/* Free block ports; made by Python when a VIP has its first (256 KiB each). */
struct pool {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, PORTS);
	__uint(key_size, 0);
	__uint(value_size, sizeof(__u32));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_VIPS *PROTOCOLS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__array(values, struct pool);
} pools SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENT_BYTES);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LISTEN_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} listen_counters SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&listen_counters, &counter);

	if (value)
		*value += 1;
}

/* One bit a port: see struct port_word. NULL: no such row. */
static __always_inline struct port_word *word_of(__u32 index, __u32 protocol, __u32 port)
{
	__u32 key = (index * PROTOCOLS + protocol) * PORT_WORDS + port / 64;

	return bpf_map_lookup_elem(&port_words, &key);
}

static __always_inline bool has_port(__u64 bits, __u32 port)
{
	return bits >> (port % 64) & 1;
}

#endif
