/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The distributor's maps; README.md says who writes and who reads each. */
#ifndef ANYPORT_MAPS_H
#define ANYPORT_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vip_table);
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

/* Page-aligned by BPF_F_MMAPABLE: so no entry lies across two cache lines. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set at load */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct bucket);
} connections SEC(".maps");

/* What `connections` was when it had another size, while it is adopted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct bucket);
} former SEC(".maps");

/* What a host says of its own connections, while it is entered. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gathered);
} gathered SEC(".maps");

/* Nobody outside can tell where a flow stands in `connections`. Written once. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct table_key);
} table_key SEC(".maps");

#endif
