/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From bytes to `struct packet`. Nothing here knows the hook: `struct frame`
 * is all that TC and XDP have to provide. Reads nothing beyond `end`, and
 * believes no length that the packet states about itself.
 */
#ifndef ANYPORT_PARSE_H
#define ANYPORT_PARSE_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

#define IPV4_FRAGMENT 0x3fff /* MF and the offset; not DF, not the reserved bit */

/* RFC 826; <linux/if_arp.h> does not compile for BPF. */
#define ARPHRD_ETHER  1
#define ARPOP_REQUEST 1
#define ARPOP_REPLY   2

struct frame {
	void *data; /* the Ethernet header */
	void *end;  /* of what is readable */
	__u32 length;
	bool gso;
};

/* Ethernet and IPv4 ARP as one, RFC 826. */
struct arp_frame {
	struct ethhdr ethernet;
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

struct packet {
	struct flow flow;
	__u32 header; /* bytes of the IPv4 header, as it says */
	__u32 total;  /* bytes of the IPv4 packet, as it says */
	__u8 version;
	__u8 ttl;
	__u8 ip_protocol;
	bool fragment;
	__be16 ttl_word; /* TTL and protocol: the 16 bits the checksum sees */
	__be16 check;
	bool opens;  /* a SYN, or any datagram: may begin a connection */
	bool closes; /* FIN or RST */
};

static __always_inline void v4_mapped(struct address *address, __be32 v4)
{
	address->words[0] = 0;
	address->words[1] = 0;
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = v4;
}

/* 0 if there is no Ethernet header. A VLAN tag is a type of its own, never IPv4 or ARP. */
static __always_inline __u16 ether_type(const struct frame *frame)
{
	struct ethhdr *ethernet = frame->data;

	return (void *)(ethernet + 1) > frame->end ? 0 : bpf_ntohs(ethernet->h_proto);
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] &&
	       a[5] == b[5];
}

/* NULL unless it is ARP for IPv4 on Ethernet, complete. */
static __always_inline struct arp_frame *parse_arp(const struct frame *frame)
{
	struct arp_frame *arp = frame->data;

	if ((void *)(arp + 1) > frame->end)
		return NULL;
	if (arp->hardware_type != bpf_htons(ARPHRD_ETHER) ||
	    arp->protocol_type != bpf_htons(ETH_P_IP) || arp->hardware_length != ETH_ALEN ||
	    arp->protocol_length != sizeof(__be32))
		return NULL;
	return arp;
}

/* Fills in what the fixed header says, unchecked; false if it is not there in full. */
static __always_inline bool parse_ipv4(const struct frame *frame, struct packet *packet)
{
	struct iphdr *ip = frame->data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > frame->end)
		return false;
	v4_mapped(&packet->flow.client, ip->saddr);
	v4_mapped(&packet->flow.vip, ip->daddr);
	packet->version = ip->version;
	packet->header = ip->ihl * 4;
	packet->total = bpf_ntohs(ip->tot_len);
	/* BIG TCP: a GSO packet beyond 64 KiB states no length (kernel: iph_totlen()). */
	if (!packet->total && frame->gso)
		packet->total = frame->length - sizeof(struct ethhdr);
	packet->fragment = ip->frag_off & bpf_htons(IPV4_FRAGMENT);
	packet->ip_protocol = ip->protocol;
	packet->ttl = ip->ttl;
	packet->ttl_word = *(__be16 *)&ip->ttl;
	packet->check = ip->check;
	return true;
}

/*
 * Whether the lengths are possible. The header checksum is not verified,
 * although RFC 1812 5.2.2 asks it of routers: the TTL update below is
 * incremental (RFC 1624), so a wrong sum stays wrong and the target's stack,
 * like the local one, drops the packet. Nothing is hidden by leaving it out.
 */
static __always_inline bool ipv4_sound(const struct frame *frame, const struct packet *packet)
{
	return packet->version == 4 && packet->header >= sizeof(struct iphdr) &&
	       packet->total >= packet->header &&
	       packet->total <= frame->length - sizeof(struct ethhdr);
}

static __always_inline bool parse_tcp(const struct frame *frame, struct packet *packet,
				      struct tcphdr *tcp)
{
	__u32 room = packet->total - packet->header;

	if ((void *)(tcp + 1) > frame->end)
		return false;
	if (tcp->doff * 4 < sizeof(*tcp) || tcp->doff * 4 > room)
		return false;
	packet->flow.protocol = TCP;
	packet->flow.client_port = bpf_ntohs(tcp->source);
	packet->flow.port = bpf_ntohs(tcp->dest);
	packet->opens = tcp->syn && !tcp->ack && !tcp->rst && !tcp->fin;
	packet->closes = tcp->fin || tcp->rst;
	return true;
}

static __always_inline bool parse_udp(const struct frame *frame, struct packet *packet,
				      struct udphdr *udp)
{
	__u32 room = packet->total - packet->header;

	if ((void *)(udp + 1) > frame->end)
		return false;
	if (bpf_ntohs(udp->len) < sizeof(*udp) || bpf_ntohs(udp->len) > room)
		return false;
	packet->flow.protocol = UDP;
	packet->flow.client_port = bpf_ntohs(udp->source);
	packet->flow.port = bpf_ntohs(udp->dest);
	packet->opens = true;
	return true;
}

/* The fixed part of the transport header; after ipv4_sound. False: malformed. */
static __always_inline bool parse_transport(const struct frame *frame, struct packet *packet)
{
	void *transport = frame->data + sizeof(struct ethhdr) + (packet->header & 0x3f);

	if (packet->ip_protocol == IPPROTO_TCP)
		return parse_tcp(frame, packet, transport);
	return parse_udp(frame, packet, transport);
}

/* RFC 1624, equation 3: HC' = ~(~HC + ~m + m'). */
static __always_inline __u16 checksum_replace(__u16 check, __u16 old, __u16 new)
{
	__u32 sum = (__u16)~check + (__u16)~old + new;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

#endif
