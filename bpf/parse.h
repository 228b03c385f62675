/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From bytes to `struct packet`. `struct frame`, reach() and load_tc() are all that
 * differs between TC and XDP. Reads nothing beyond `end`, and believes no length
 * that the packet states about itself.
 */
#ifndef ANYPORT_PARSE_H
#define ANYPORT_PARSE_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"
#include "addresses.h"

#define IPV4_FRAGMENT 0x3fff /* MF and the offset; not DF, not the reserved bit */
#define IPV4_OFFSET   0x1fff /* in 8 bytes */
#define IPV6_FRAGMENT 0xfff9 /* the offset and M */
#define IPV6_OFFSET   0xfff8 /* in bytes */

#define FIRST_BYTES  (sizeof(struct ethhdr) + sizeof(struct ipv6hdr)) /* ARP is shorter */
#define LONGEST_IPV4 60

struct frame {
	void *context; /* the hook's, for load_tc() */
	void *data;    /* the Ethernet header */
	void *end;     /* of what is readable at `data` */
	__u32 length;
	bool xdp;
	bool gso;
	bool tagged; /* in a VLAN: the tag is beside the frame, not in it */
};

/*
 * The first `need` bytes readable at `data`, as far as the frame has them. Pulled
 * only if they lie in fragments; every pointer into the frame is stale then. XDP
 * has them there, or leaves the packet to TC.
 */
static __always_inline void reach(struct frame *frame, __u32 need)
{
	struct __sk_buff *skb = frame->context;

	if (frame->xdp)
		return;
	if (need > skb->len)
		need = skb->len;
	if ((void *)(long)skb->data + need > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, need);
	frame->data = (void *)(long)skb->data;
	frame->end = (void *)(long)skb->data_end;
}

/* TC: a copy of bytes that may lie anywhere. False: the frame ends before. */
static __always_inline bool load_tc(const struct frame *frame, __u32 offset, void *to, __u32 size)
{
	return !bpf_skb_load_bytes(frame->context, offset, to, size);
}

struct packet {
	struct flow flow;
	__u64 udp_idle_ns; /* the VIP's: a flow silent for longer may move */
	__u32 header;	   /* bytes before the transport header; IPv4: as the packet says */
	__u32 total;	   /* bytes of the IP packet, as it says */
	__u8 family;	   /* enum family */
	__u8 version;	   /* what stands in the packet: must be that of the family */
	__u8 ttl;	   /* hop limit */
	__u8 ip_protocol;
	bool fragment; /* a part of a packet */
	bool later;    /* and not the first: it has no transport header */
	__be32 fragment_id;
	bool error;	 /* an ICMP error: the flow is that of the packet inside, turned round */
	bool opens;	 /* a SYN, or any datagram: may begin a connection */
	bool closes;	 /* FIN */
	bool resets;	 /* RST */
	__be16 ttl_word; /* IPv4's TTL and protocol: the 16 bits the checksum sees */
	__be16 check;
	__u16 absent;	       /* the VIP's */
	__u32 gathering_until; /* the VIP's */
	__u64 choice;	       /* what choose() returned, here or before in XDP; 0: not yet */
};

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] &&
	       a[5] == b[5];
}

static __always_inline bool no_mac(const __u8 *mac)
{
	return !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]);
}

/*
 * 0 if there is no Ethernet header. A frame in a VLAN belongs to that VLAN's
 * interface: 0 as well; a tag in the frame, behind another that the kernel has
 * taken off, is a type of its own, never IP or ARP.
 */
static __always_inline __u16 ether_type(const struct frame *frame)
{
	struct ethhdr *ethernet = frame->data;

	if (frame->tagged || (void *)(ethernet + 1) > frame->end)
		return 0;
	return bpf_ntohs(ethernet->h_proto);
}

/*
 * The length that the packet states. BIG TCP: a GSO packet beyond 64 KiB states
 * none (kernel: iph_totlen(), ipv6_payload_len()).
 */
static __always_inline __u32 stated_length(const struct frame *frame, __be16 stated, __u32 fixed)
{
	if (!stated && frame->gso)
		return frame->length - sizeof(struct ethhdr);
	return fixed + bpf_ntohs(stated);
}

/* Fills in what the fixed header says, unchecked; false if it is not there in full. */
static __always_inline bool parse_ipv4(const struct frame *frame, struct packet *packet)
{
	struct iphdr *ip = frame->data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > frame->end)
		return false;
	v4_mapped(&packet->flow.client, ip->saddr);
	v4_mapped(&packet->flow.vip, ip->daddr);
	packet->family = IPV4;
	packet->version = ip->version;
	packet->header = ip->ihl * 4;
	packet->total = stated_length(frame, ip->tot_len, 0);
	packet->fragment = ip->frag_off & bpf_htons(IPV4_FRAGMENT);
	packet->later = ip->frag_off & bpf_htons(IPV4_OFFSET);
	packet->fragment_id = ip->id;
	packet->ip_protocol = ip->protocol;
	packet->ttl = ip->ttl;
	packet->ttl_word = *(__be16 *)&ip->ttl;
	packet->check = ip->check;
	return true;
}

/*
 * The same of IPv6. A v4-mapped address never travels (RFC 4291 2.5.5.2): as a
 * destination it would pass for an IPv4 VIP.
 */
static __always_inline bool parse_ipv6(const struct frame *frame, struct packet *packet)
{
	struct ipv6hdr *ip = frame->data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > frame->end)
		return false;
	__builtin_memcpy(&packet->flow.client, &ip->saddr, sizeof(struct address));
	__builtin_memcpy(&packet->flow.vip, &ip->daddr, sizeof(struct address));
	packet->family = IPV6;
	packet->version = ip->version;
	packet->header = sizeof(*ip);
	packet->total = stated_length(frame, ip->payload_len, sizeof(*ip));
	packet->ip_protocol = ip->nexthdr;
	packet->ttl = ip->hop_limit;
	return !is_v4_mapped(&packet->flow.vip);
}

/*
 * Whether the lengths are possible. The header checksum of IPv4 is not verified,
 * although RFC 1812 5.2.2 asks it of routers: the TTL update below is
 * incremental (RFC 1624), so a wrong sum stays wrong and the target's stack,
 * like the local one, drops the packet. Nothing is hidden by leaving it out.
 */
static __always_inline bool ip_sound(const struct frame *frame, const struct packet *packet)
{
	if (packet->family == IPV4 && (packet->version != 4 || packet->header < 20))
		return false;
	if (packet->family == IPV6 && (packet->version != 6 || is_v4_mapped(&packet->flow.client)))
		return false;
	return packet->total >= packet->header &&
	       packet->total <= frame->length - sizeof(struct ethhdr);
}

/* The fixed part of either transport header. */
union transport {
	struct tcphdr tcp;
	struct udphdr udp;
};

static __always_inline bool parse_tcp(struct packet *packet, const struct tcphdr *tcp, __u32 room)
{
	if (tcp->doff * 4 < sizeof(*tcp) || tcp->doff * 4 > room)
		return false;
	packet->flow.protocol = TCP;
	packet->flow.client_port = bpf_ntohs(tcp->source);
	packet->flow.port = bpf_ntohs(tcp->dest);
	packet->opens = tcp->syn && !tcp->ack && !tcp->rst && !tcp->fin;
	packet->closes = tcp->fin;
	packet->resets = tcp->rst;
	return true;
}

/* In a first fragment the length is that of the whole datagram. */
static __always_inline bool parse_udp(struct packet *packet, const struct udphdr *udp, __u32 room)
{
	if (bpf_ntohs(udp->len) < sizeof(*udp) || room < sizeof(*udp))
		return false;
	if (bpf_ntohs(udp->len) > room && !packet->fragment)
		return false;
	packet->flow.protocol = UDP;
	packet->flow.client_port = bpf_ntohs(udp->source);
	packet->flow.port = bpf_ntohs(udp->dest);
	packet->opens = true;
	return true;
}

/* Where the transport header lies, within LONGEST_IPV4. NULL: it is not there in full. */
static __always_inline const void *near_transport(struct frame *frame, const struct packet *packet,
						  __u32 size)
{
	void *at;

	reach(frame, sizeof(struct ethhdr) + packet->header + size);
	at = frame->data + sizeof(struct ethhdr) + (packet->header & 0x3f);
	return at + size > frame->end ? NULL : at;
}

/* Or, behind IPv6 extension headers, a copy: the verifier wants a bound on offsets. */
static __always_inline const void *transport_of(struct frame *frame, const struct packet *packet,
						union transport *copy, __u32 size)
{
	if (packet->header <= LONGEST_IPV4)
		return near_transport(frame, packet, size);
	return load_tc(frame, sizeof(struct ethhdr) + packet->header, copy, size) ? copy : NULL;
}

/* After ip_sound, for TCP and UDP. False: malformed. */
static __always_inline bool parse_transport(struct frame *frame, struct packet *packet)
{
	__u32 room = packet->total - packet->header;
	union transport copy = {};
	const void *at;

	if (packet->ip_protocol == IPPROTO_TCP) {
		at = transport_of(frame, packet, &copy, sizeof(struct tcphdr));
		return at && parse_tcp(packet, at, room);
	}
	at = transport_of(frame, packet, &copy, sizeof(struct udphdr));
	return at && parse_udp(packet, at, room);
}

/* The same where there are no IPv6 extension headers; load_tc() is not for XDP. */
static __always_inline bool parse_plain(struct frame *frame, struct packet *packet)
{
	__u32 room = packet->total - packet->header;
	const void *at;

	if (packet->ip_protocol == IPPROTO_TCP) {
		at = near_transport(frame, packet, sizeof(struct tcphdr));
		return at && parse_tcp(packet, at, room);
	}
	at = near_transport(frame, packet, sizeof(struct udphdr));
	return at && parse_udp(packet, at, room);
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
