/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few kernel structures that the programs read, relocated at load time
 * (CO-RE): only the named fields matter, not their offsets here.
 */
#ifndef ANYPORT_KERNEL_H
#define ANYPORT_KERNEL_H

#define RELOCATED __attribute__((preserve_access_index))

struct sock_common {
	unsigned char skc_ipv6only : 1;
	volatile unsigned char skc_state;
} RELOCATED;

struct kernel_uid {
	unsigned int val;
} RELOCATED;

struct cred {
	struct kernel_uid uid;
} RELOCATED;

struct task_struct {
	int tgid;
	char comm[16];
	const struct cred *cred;
} RELOCATED;

#endif
