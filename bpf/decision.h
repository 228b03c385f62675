/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is to happen to a packet, and why; and the fence, which every subject asks. */
#ifndef ANYPORT_DECISION_H
#define ANYPORT_DECISION_H

#include "maps.h"
#include "parse.h"

enum action {
	PASS, /* to the next program and the local stack */
	DROP,
	ANSWER_ARP, /* back out of the interface it came by */
	ANSWER_NDP,
	FORWARD,	/* by `hop` */
	ENCAPSULATE,	/* and then by `hop`, if it fits */
	ANSWER_TOO_BIG, /* to who sent it */
	LEAVE,		/* XDP: to TC, which decides */
	RELEASE,	/* back into the queue, and the held fragments from `waiting` on */
};

struct decision {
	__u32 verdict; /* enum verdict */
	__u32 action;  /* enum action */
	const struct hop *hop;
	__u16 row;  /* of the VIP that it is for, NO_ROW */
	__u16 slot; /* of the target that it is for, NO_SLOT; to whose hop it goes */
	union {
		__u32 waiting; /* RELEASE: as in struct fragment_place */
		__u32 mtu;     /* ANSWER_TOO_BIG: bytes that would fit */
	};
};

static __always_inline struct decision decided(enum verdict verdict, enum action action)
{
	return (struct decision){
		.verdict = verdict, .action = action, .row = NO_ROW, .slot = NO_SLOT};
}

static __always_inline struct decision for_vip(const struct vip *vip, struct decision decision)
{
	decision.row = vip->index;
	return decision;
}

static __always_inline struct decision for_target(__u32 slot, struct decision decision)
{
	decision.slot = slot < MAX_HOSTS ? slot : NO_SLOT;
	return decision;
}

static __always_inline bool is_fenced(const struct vip *vip)
{
	struct fence *fence = bpf_map_lookup_elem(&fenced, &vip->index);

	return fence && fence->raised;
}

/*
 * While fenced. What the new distributor forwards to this host as a target
 * goes up. What clients still send here does not: the local stack would reset
 * connections that live on other targets; they send again, to the right host.
 */
static __always_inline struct decision decide_fenced(const struct vip *vip, const __u8 *source)
{
	struct fence *fence = bpf_map_lookup_elem(&fenced, &vip->index);

	if (fence && same_mac(fence->mac, source))
		return decided(VERDICT_FENCED, PASS);
	return decided(VERDICT_DROP_FENCED, DROP);
}

/*
 * Two hosts that announce one VIP each take half of every connection. Which of
 * the two is right only the registry knows, so the one that sees the other
 * yields at once, without its daemon; the daemon unfences if it is still elected.
 */
static __always_inline struct decision fence(const struct vip *vip, const __u8 *announcer)
{
	struct fence raised = {.raised = 1};

	__builtin_memcpy(raised.mac, announcer, ETH_ALEN);
	bpf_map_update_elem(&fenced, &vip->index, &raised, BPF_ANY);
	return decided(VERDICT_FENCED, PASS);
}

#endif
