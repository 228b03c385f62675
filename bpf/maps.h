/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The distributor's maps; README.md says who writes and who reads each. */
#ifndef ANYPORT_MAPS_H
#define ANYPORT_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VIPS);
	__type(key, struct address);
	__type(value, struct vip);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VIPS);
	__type(key, __u32);
	__type(value, struct fence);
} fenced SEC(".maps");

/* An array: a row is found without hashing, and no set of listeners fills it up. */
struct port_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROTOCOLS *PORTS);
	__uint(key_size, sizeof(__u32)); /* sizes: clang 14 only forward-declares an inner type */
	__uint(value_size, sizeof(struct route));
};

/* A map of maps: a VIP's 2 MiB are spent when it is distributed, not before. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_VIPS);
	__type(key, __u32);
	__array(values, struct port_table);
} routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SELECTIONS);
	__type(key, __u32);
	__type(value, struct selection);
} selections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_HOSTS);
	__type(key, __u32);
	__type(value, struct host);
} hosts SEC(".maps");

/* LRU: a flood of SYNs pushes out the longest silent connections, and never blocks new ones. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); /* set at load */
	__type(key, struct flow);
	__type(value, struct connection);
} connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICT_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

#endif
