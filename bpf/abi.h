/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The only structs and enums that the BPF programs share with Python
 * (src/anyport/kernel/abi.py; tests/abi compares the two through BTF). Maps outlive
 * versions: whose contents mean something else than before has another number in
 * src/anyport/kernel/layouts.py.
 *
 * Addresses are always 16 bytes, IPv4 as v4-mapped IPv6 (::ffff:a.b.c.d), in
 * network order: one layout serves both families. Ports are in host order
 * wherever they are an index or shown to Python. The wildcard of IPv4 is
 * ::ffff:0.0.0.0; `::` is IPv6's.
 */
#ifndef ANYPORT_ABI_H
#define ANYPORT_ABI_H

#include <linux/types.h>

#define MAX_VIPS	16   /* rows of every per-VIP array */
#define MAX_HOSTS	64   /* bits of a host mask; 0..63 are host slots */
#define MAX_SELECTIONS	512  /* distinct target sets with a table of their own */
#define SELECTION_SLOTS 4093 /* prime, for Maglev */
#define PORTS		65536
#define PORT_WORDS	(PORTS / 64)
#define PEER_ROWS	256 /* by the last byte of the MAC */
#define PEERS_A_ROW	4
#define BUCKET_WAYS	4
#define PAGE_BUCKETS	32 /* in 4 KiB; there is a multiple of them */
#define WORD_VIP	6  /* first bits of the fields of a connection's word */
#define WORD_PROTOCOL	10
#define WORD_USED	(1ULL << 11)
#define WORD_TAG	0xfffffffffffff000ULL
#define SEEN_BITS	30
#define TICK_SHIFT	27
#define GATHERED_BYTES	48000 /* of whole rows of either family */
#define TUNNEL_ROWS	512
#define COMM_LENGTH	16
#define HANDED_ON	0x616e7970	/* "anyp" */
#define NO_SLOT		MAX_HOSTS	/* for a host slot: none */
#define NO_ROW		MAX_VIPS	/* for a VIP's row: none */
#define PAST_SLOT	(MAX_HOSTS + 1) /* of counters: hosts that had a slot before */
#define COUNTED_SLOTS	(MAX_HOSTS + 2)
#define COUNTED_ROWS	(MAX_VIPS + 1)
#define TRIAL_MARK	0x616e7970 /* SO_MARK of the agent's trial binds: neither refused nor seen */

struct address {
	__u32 words[4]; /* network order */
};

/* An index, not an IP protocol number: half a row of the per-VIP arrays each. */
enum protocol {
	TCP = 0,
	UDP = 1,
	PROTOCOLS = 2,
};

/* ---- listen.bpf.c: every host ---- */

enum definition_flags {
	DEFINITION_ENUMERATED = 1,
};

/* definitions: VIP -> what the distributor published for it (R1). */
struct definition {
	__u32 index; /* row of this VIP in port_words and pools */
	__u32 flags;
};

/*
 * port_words[(index * PROTOCOLS + protocol) * PORT_WORDS + port / 64]:
 * one bit a port in each word.
 */
struct port_word {
	__u64 enumerated; /* R3 */
	__u64 leased;	  /* inside a block of any host */
	__u64 own;	  /* inside a block of this host */
};

enum socket_flags {
	SOCKET_V6ONLY = 1, /* takes no IPv4: never counts for an IPv4 VIP */
};

/* sockets: socket cookie -> a socket that listens (TCP) or is bound (UDP). */
struct listening_socket {
	struct address address; /* as bound: the VIP, or a wildcard */
	__u32 uid;
	__u32 pid; /* 0: not known (the socket is older than anyport) */
	__u16 port;
	__u8 protocol; /* enum protocol */
	__u8 flags;    /* enum socket_flags */
	char comm[COMM_LENGTH];
};

/* bound: how many sockets listen on exactly this address and port. */
struct endpoint {
	struct address address;
	__u16 port;
	__u8 protocol;
	__u8 pad;
};

/* handed: socket cookie -> the block port that bind(VIP, 0) gave it. */
struct handed_port {
	struct address vip;
	__u64 since_ns; /* CLOCK_BOOTTIME */
	__u16 port;
	__u8 protocol;
	__u8 bound; /* post_bind has confirmed it */
	__u32 pad;
};

/* settings: one entry. */
struct settings {
	__u64 handout_deadline_ns; /* CLOCK_BOOTTIME; later binds get EADDRINUSE */
};

enum event_kind {
	EVENT_OPENED = 1,    /* a socket began to listen */
	EVENT_CLOSED = 2,    /* and stopped */
	EVENT_HANDED = 3,    /* a block port was handed out */
	EVENT_FREED = 4,     /* its socket is gone: it rests now */
	EVENT_EXHAUSTED = 5, /* bind(VIP, 0) found no free block port */
};

struct event {
	__u64 cookie;
	__u32 kind; /* enum event_kind */
	__u32 pad;
	struct listening_socket socket; /* HANDED, FREED, EXHAUSTED: address, port, protocol */
};

enum reconcile_operation {
	RECONCILE_OPENED = 1, /* as if the socket had been seen to listen */
	RECONCILE_CLOSED = 2, /* as if it had been seen to stop */
	RECONCILE_FREED = 3,  /* forget a handed port whose socket is gone */
};

/* What the `reconcile` program returns. */
enum reconcile_result {
	RECONCILE_UNCHANGED = 0,
	RECONCILE_RECORDED = 1,
	RECONCILE_REMOVED = 2,
};

/* Argument of the `reconcile` program (SEC("syscall")). */
struct reconcile_request {
	__u64 cookie;
	__u32 operation; /* enum reconcile_operation */
	__u32 pad;
	struct listening_socket socket; /* OPENED */
};

enum listen_counter {
	LISTEN_OPENED,
	LISTEN_CLOSED,
	LISTEN_EVENTS_LOST,  /* ring buffer full: Python must reconcile */
	LISTEN_SOCKETS_FULL, /* sockets map full: Python must reconcile */
	LISTEN_PORTS_HANDED,
	LISTEN_PORTS_EXHAUSTED,
	LISTEN_BINDS_REFUSED, /* explicit bind inside a leased block */
	LISTEN_LEAKS_REFUSED, /* sk_lookup: the VIP has no listener that counts there */
	LISTEN_COUNTERS,
};

/* ---- distribute.bpf.c: the distributor ---- */

/* A VIP that this host distributes. */
struct vip {
	struct address address; /* `::`: the row is free */
	__u32 index;		/* its row here, in routes and in fenced */
	__u8 mac[6];		/* answers ARP with it */
	__u16 absent;		/* 1 + slot of who may have what nobody said is theirs; 0: nobody */
	__u32 gathering_until;	/* in ticks (see struct connection); 0: not gathering */
	__u64 udp_idle_ns;	/* a UDP flow silent for longer is selected anew */
};

/* fenced[vip index]: another host announced the VIP. */
struct fence {
	__u8 mac[6]; /* its */
	__u16 raised;
};

/* peers[last byte of a MAC]: hosts that have VIPs on `lo`. */
struct peer_row {
	__u64 peers[PEERS_A_ROW]; /* MAC << 16 | mask of the VIPs' indexes; 0: none */
};

/* vips: 0 -> all of them. */
struct vip_table {
	__u32 used; /* rows from here on are free */
	__u32 pad;
	struct vip rows[MAX_VIPS];
	struct address known[MAX_VIPS]; /* whose connections each row has, also when it is free */
};

enum route_kind {
	ROUTE_NONE = 0,	       /* the local stack refuses (R8) */
	ROUTE_UNIQUE = 1,      /* to slot `target`, whatever the load (R7) */
	ROUTE_DISTRIBUTED = 2, /* selections[target] chooses (R6) */
	ROUTE_FALLBACK = 3,    /* no table was left: highest random weight over `hosts` */
};

/* routes[vip index][protocol * PORTS + port] */
struct route {
	__u32 kind;   /* and target: one aligned word, so they are read and written as one */
	__u32 target; /* UNIQUE: host slot; DISTRIBUTED: selection index */
	__u64 hosts;  /* mask of the target slots */
};

enum selection_method {
	METHOD_HASH = 0,
	METHOD_ROUND_ROBIN = 1,
};

/* selections: one table for all ports with the same targets. */
struct selection {
	__u32 method;
	__u32 size; /* slots in use, 1..SELECTION_SLOTS */
	__u32 next; /* round robin: the kernel counts it up */
	__u32 pad;
	__u16 slots[SELECTION_SLOTS]; /* host slots */
	__u16 pad2[3];
};

enum path_kind {
	PATH_NONE = 0,
	PATH_LOCAL = 1,
	PATH_L2 = 2,
	PATH_IPIP = 3, /* in an outer packet of the family of its address */
};

/* Of packets; an index, as `enum protocol`. */
enum family {
	IPV4 = 0,
	IPV6 = 1,
	FAMILIES = 2,
};

/* How packets of one family get to a host. */
struct hop {
	struct address address; /* its own, of either family; `::` without a path */
	__u32 path;		/* enum path_kind */
	__u32 ifindex;		/* out of here; IPIP, 0: of the interface it came by */
	struct address source;	/* IPIP: this host's own, of the family of `address` */
	__u32 mtu;		/* IPIP: bytes of the largest outer packet; 0: not known */
	__u32 pad;
};

/* hosts: slot -> how packets get there, and how many. */
struct host {
	struct hop hops[FAMILIES];
	__u32 weight; /* for the fallback */
	__u8 mac[6];  /* of its LAN interface, for XDP; 0: not told */
	__u16 pad;
};

/* learnt_mtus[slot * FAMILIES + family]: what a router on the way to it told. */
struct learnt_mtu {
	struct address destination; /* the hop's that it is true of */
	__u64 until_ns;		    /* CLOCK_BOOTTIME */
	__u32 mtu;		    /* as struct hop's; 0: nothing was told */
	__u32 pad;
};

struct flow {
	struct address client;
	struct address vip;
	__u16 client_port; /* host order */
	__u16 port;	   /* host order */
	__u8 protocol;
	__u8 pad[3];
};

enum connection_state {
	CONNECTION_NEW = 0,	    /* SYN only, or first datagram */
	CONNECTION_ESTABLISHED = 1, /* the client has sent more */
	CONNECTION_CLOSING = 2,	    /* the client has sent FIN: over, or half-closed */
	CONNECTION_RESET = 3,	    /* or RST */
};

/*
 * An entry of the connection table, half a cache line. `word`, 0 if it is free:
 *
 *   63 tag 12 | 11 used | 10 protocol | 9 row of the VIP 6 | 5 slot 0
 *
 * `life`: the state above the SEEN_BITS, below it when the client was last heard
 * (CLOCK_MONOTONIC in ticks of 2^TICK_SHIFT ns, 0.13 s; they begin anew after 4 years).
 */
struct connection {
	__u64 word;
	__u32 life;
	__u16 client_port; /* host order */
	__u16 port;	   /* host order */
	struct address client;
};

/* connections: what the table's key makes of a flow -> four that it may be among. */
struct bucket {
	struct connection ways[BUCKET_WAYS];
};

/* Argument of `forget` and `adopt` (SEC("syscall")). */
struct upkeep_request {
	__u64 slots; /* forget: a bit each */
	__u32 rows;  /* forget: of VIPs, a bit each */
	__u32 first; /* bucket */
	__u32 count; /* of buckets */
	__u32 done;  /* answer: entries */
};

/*
 * A host's connection to a VIP, as its sockets have it: rows of a piece. Through the
 * registry from any host to any other, so all is in network order.
 */
struct own_ipv4 {
	__u32 client;
	__u16 client_port;
	__u16 port;
};

struct own_ipv6 {
	struct address client;
	__u16 client_port;
	__u16 port;
};

/* gathered: 0 -> the rows of one piece, of the VIP's family. */
struct gathered {
	__u8 rows[GATHERED_BYTES];
};

/* Argument of `enter` (SEC("syscall")). */
struct enter_request {
	__u32 row;     /* of the VIP */
	__u32 slot;    /* of the host whose connections they are */
	__u32 family;  /* enum family */
	__u32 count;   /* of rows in `gathered` */
	__u32 others;  /* answer: those that are another host's here */
	__u32 no_room; /* answer: those that found none */
};

/* table_key: 0 -> random, and as old as the table. */
struct table_key {
	__u64 words[6];
};

/*
 * Before the frame, from XDP to TC: what was chosen for a packet that XDP cannot
 * bring there, or that is the local stack's.
 */
struct handed_on {
	__u32 magic; /* HANDED_ON: no other program's metadata */
	__u32 verdict;
	__u32 slot;
	__u32 pad;
};

/* Reason of each verdict: what becomes of the packet, and why. */
enum verdict {
	VERDICT_NOT_OURS, /* passed up: not for a VIP of this host */
	VERDICT_ARP_REPLIED,
	VERDICT_ARP_IGNORED,
	VERDICT_NDP_REPLIED,
	VERDICT_NDP_IGNORED,
	VERDICT_DISTRIBUTED, /* passed up: another distributor sent it here */
	VERDICT_FENCED,	     /* another host announced the VIP: passed up */
	VERDICT_ESTABLISHED, /* known connection, to its target */
	VERDICT_UNIQUE,
	VERDICT_SELECTED,	    /* new connection, by the selection table */
	VERDICT_FALLBACK,	    /* new connection, without a table */
	VERDICT_HASHED,		    /* not a SYN and not known: where the hash says */
	VERDICT_TABLE_FULL,	    /* new connection, not remembered: where the hash says */
	VERDICT_ICMP_ERROR,	    /* about a connection: to its target */
	VERDICT_FRAGMENT,	    /* not the first of its packet: to where that went */
	VERDICT_FRAGMENT_HELD,	    /* came before it: kept, and lost if that never comes */
	VERDICT_FRAGMENTS_RELEASED, /* the first, late: put back, those that waited behind it */
	VERDICT_MTU_LEARNT,	    /* passed up: a router says what fits on the way to a target */
	VERDICT_TOO_BIG,	    /* for the way to its target: the sender is told */
	VERDICT_NO_ROUTE,	    /* passed up: the local stack refuses it */
	VERDICT_OTHER_PROTOCOL,	    /* passed up: neither TCP nor UDP, nor an error about one */
	VERDICT_DROP_FRAGMENT,	    /* came before the first, and cannot be kept */
	VERDICT_DROP_MALFORMED,
	VERDICT_DROP_HEADERS, /* more IPv6 extension headers than are walked */
	VERDICT_DROP_ICMP,    /* an error that does not tell which connection it is about */
	VERDICT_DROP_TTL,
	VERDICT_DROP_TOO_BIG,	    /* and nobody can be told */
	VERDICT_DROP_ENCAPSULATION, /* the kernel refused to put it into another packet */
	VERDICT_DROP_NO_PATH,	    /* the target's address is not known */
	VERDICT_DROP_TABLE,	    /* a table entry points nowhere */
	VERDICT_DROP_FENCED,	    /* not sent here by the host that announced the VIP */
	VERDICT_DROP_GATHERING,	    /* not a SYN and not known: whose it is, is being asked */
	VERDICT_ABSENT,		    /* not known by those who are there: to a host that is absent */
	VERDICT_COUNTERS,
};

/* Packets as the hook has them: segments that GRO has merged are one, with one header. */
struct counter {
	__u64 packets;
	__u64 bytes; /* of frames, from the Ethernet header on */
};

/* counters[row of the VIP * COUNTED_SLOTS + host slot] */
struct counters {
	struct counter by_verdict[VERDICT_COUNTERS];
};

/* ---- target.bpf.c: every host that packets may be tunnelled to ---- */

/* tunnel_addresses[address]: what it is to this host; a mask. */
enum tunnel_role {
	ROLE_OWN = 1,	      /* its own: outer packets go to it */
	ROLE_DISTRIBUTOR = 2, /* another host's: outer packets may come from it */
	ROLE_VIP = 4,	      /* inner packets go to it */
};

/* tunnel_settings: 0 -> for the maximum segment size that the host announces. */
struct tunnel_settings {
	__u32 overhead; /* bytes of an outer header; 0: the MSS is left alone */
	__u32 pad;
};

/* tunnel_counters[reason]: packets. */
enum tunnel_counter {
	TUNNEL_DECAPSULATED,
	TUNNEL_MSS_CLAMPED,
	TUNNEL_DROP_SOURCE,    /* not from a host of the cluster, and for a VIP inside */
	TUNNEL_DROP_MALFORMED, /* cut off, or lengths that cannot be */
	TUNNEL_DROP_FRAGMENT,  /* the first part of an outer packet: it was too big on the way */
	TUNNEL_DROP_ECN,  /* congestion was marked, and the sender would not know (RFC 6040 4.2) */
	TUNNEL_DROP_ROOM, /* the kernel refused to take the outer header off */
	TUNNEL_COUNTERS,
};

#endif
