/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A flow's 64-bit number, keyed: what chooses its target and its place in the connection table. */
#ifndef ANYPORT_FLOW_HASH_H
#define ANYPORT_FLOW_HASH_H

#include <linux/types.h>
#include "abi.h"

/* The same on all distributors of a cluster, or a takeover would move every connection. */
const volatile __u64 hash_key[2] = {};

#define ROTATE(x, n) ((x) << (n) | (x) >> (64 - (n)))

static __always_inline void sip_round(__u64 v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = ROTATE(v[1], 13) ^ v[0];
	v[3] = ROTATE(v[3], 16) ^ v[2];
	v[0] = ROTATE(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = ROTATE(v[1], 17) ^ v[2];
	v[3] = ROTATE(v[3], 21) ^ v[0];
	v[2] = ROTATE(v[2], 32);
}

static __always_inline void sip_word(__u64 v[4], __u64 word)
{
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
}

/*
 * SipHash-1-3 (Aumasson, Bernstein 2012) of 21 bytes: client, ports, protocol. Not
 * of the VIP: a connection differs from another VIP's by its row, and the less
 * there is to hash the better.
 */
static __always_inline __u64 hash_of(const struct flow *flow)
{
	const __u64 *client = (const __u64 *)&flow->client;
	__u64 key0 = hash_key[0], key1 = hash_key[1];
	__u64 v[4] = {key0 ^ 0x736f6d6570736575, key1 ^ 0x646f72616e646f6d,
		      key0 ^ 0x6c7967656e657261, key1 ^ 0x7465646279746573};
	__u64 last = 21ULL << 56 | (__u64)flow->protocol << 32 | (__u64)flow->port << 16 |
		     flow->client_port;

	sip_word(v, client[0]);
	sip_word(v, client[1]);
	sip_word(v, last);
	v[2] ^= 0xff;
	sip_round(v);
	sip_round(v);
	sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The finalizer of MurmurHash3: each bit of the number depends on all. */
static __always_inline __u64 mixed(__u64 x)
{
	x = (x ^ x >> 33) * 0xff51afd7ed558ccd;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53;
	return x ^ x >> 33;
}

#endif
