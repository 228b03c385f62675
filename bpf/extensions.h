/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * IPv6 extension headers, RFC 8200 4: where they end, and what comes then. Also
 * for a packet inside an ICMPv6 error, which is cut off somewhere.
 */
#ifndef ANYPORT_EXTENSIONS_H
#define ANYPORT_EXTENSIONS_H

#include "parse.h"

#define EXTENSIONS 8 /* walked at most: RFC 8504 5.3 asks for a limit */

/* The first 8 bytes, which each has. */
struct extension {
	__u8 next;
	__u8 length; /* in 8 bytes, these not counted; not in a Fragment header */
	union {
		struct {
			__u8 routing_type;
			__u8 segments_left;
		};
		__be16 fragment;
	};
	__be32 id;
};

struct chain {
	__u32 offset;	 /* in the frame: of the next header, at last the transport's */
	__u32 end;	 /* in the frame: of the packet */
	__be32 id;	 /* of the fragment */
	__be16 fragment; /* offset << 3 | more follow; 0: it is whole */
	__u8 next;	 /* what stands at `offset` */
};

enum walked {
	WALKED,
	WALK_MALFORMED,
	WALK_TOO_LONG, /* there are more headers than are walked */
};

/* What stands at `offset`, if the packet has it; behind its end may be padding. */
static __always_inline bool load_next(const struct frame *frame, const struct chain *chain,
				      void *to, __u32 size)
{
	return chain->offset + size <= chain->end && load_tc(frame, chain->offset, to, size);
}

static __always_inline bool is_extension(__u8 type)
{
	return type == IPPROTO_HOPOPTS || type == IPPROTO_ROUTING || type == IPPROTO_DSTOPTS ||
	       type == IPPROTO_FRAGMENT;
}

/*
 * Whether the walk ends before this header, as before one of no known type:
 * hop-by-hop options are only the first; a routing header with segments left
 * names another destination. What they mean is the local stack's to say.
 */
static __always_inline bool stops_at(__u8 type, const struct extension *extension, __u32 position)
{
	return (type == IPPROTO_HOPOPTS && position) ||
	       (type == IPPROTO_ROUTING && extension->segments_left);
}

/* One header on. False: there is none, or no fragment may be within a fragment. */
static __always_inline bool step(struct chain *chain, const struct extension *extension)
{
	bool is_fragment = chain->next == IPPROTO_FRAGMENT;

	if (is_fragment && chain->fragment)
		return false;
	if (is_fragment) {
		chain->fragment = extension->fragment & bpf_htons(IPV6_FRAGMENT);
		chain->id = extension->id;
	}
	chain->offset += sizeof(*extension) + (is_fragment ? 0 : extension->length * 8);
	chain->next = extension->next;
	return chain->offset <= chain->end;
}

/* What follows in a fragment that is not the first is no header, whatever it is said to be. */
static __always_inline bool at_end(const struct chain *chain)
{
	return !is_extension(chain->next) || chain->fragment & bpf_htons(IPV6_OFFSET);
}

/* To the transport header; in a fragment that is not the first, to its Fragment header's end. */
static __always_inline enum walked walk(const struct frame *frame, struct chain *chain)
{
	for (__u32 i = 0; i < EXTENSIONS; i++) {
		struct extension extension;

		if (at_end(chain))
			return WALKED;
		if (!load_next(frame, chain, &extension, sizeof(extension)))
			return WALK_MALFORMED;
		if (stops_at(chain->next, &extension, i))
			return WALKED;
		if (!step(chain, &extension))
			return WALK_MALFORMED;
	}
	return at_end(chain) ? WALKED : WALK_TOO_LONG;
}

#endif
