/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* What the programs share with each other and with ztunnel/redirect.
 *
 * Maps are pinned by name in <bpffs>/v2: change a key or a value, and the
 * directory becomes v3.
 *
 * Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d. Addresses and ports are in
 * network order. Structs are padded by hand: keys are compared bytewise.
 */
#ifndef MESH_H
#define MESH_H

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define SOL_SOCKET 1
#define SO_MARK 36

#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262

#define HBONE_PORT 15008

/* A published 4-tuple is good for one handshake, not for whoever comes by the
 * same source port later. A probe's SYN is answered at once or not at all; an
 * inner one may wait for a full accept queue as long as any SYN, 127 s.
 */
#define PROBE_LIFETIME_NS (10ULL * 1000 * 1000 * 1000)
#define INNER_LIFETIME_NS (130ULL * 1000 * 1000 * 1000)

struct addr {
	__be32 word[4];
};

struct endpoint {
	struct addr addr;
	__be16 port;
	__u16 bound; /* where an app wanted to go: 1 if it chose the source by bind(); in keys 0 */
};

/* Where an app wanted to go, since a time in ns. */
struct published {
	struct endpoint dst;
	__u32 pad;
	__u64 since;
};

/* One TCP connection, in the direction in which it was opened. */
struct flow {
	__u64 netns; /* cookie */
	struct addr src;
	struct addr dst;
	__be16 sport;
	__be16 dport;
	__u32 pad;
};

/* The bit of stand_ins that is clear while the pod has more devices than have a
 * route of stand-ins: what is bound to a device is refused. For such a socket IPv4
 * takes a destination without a route to be on the link.
 */
#define UNCROWDED 1

/* Where the pod's steered connections go: ztunnel's listeners in its netns.
 * A zero port means that the family is not enrolled; connects are refused.
 */
struct pod {
	struct addr addr4;
	struct addr addr6;
	__be16 port4;
	__be16 port6;
	__u32 stand_ins; /* id of the prefixes that are local in the pod; 0: none; see UNCROWDED */
};

/* Netns and address, or netns and port, of an enrolled pod. */
struct pod_addr {
	__u64 netns;
	struct addr addr;
};

struct pod_port {
	__u64 netns;
	__be16 port;
	__u16 pad;
	__u32 pad2;
};

struct pod_endpoint {
	__u64 netns;
	struct endpoint dst;
	__u32 pad;
};

enum listener_kind {
	LISTENER_PLAINTEXT4,
	LISTENER_PLAINTEXT6,
	LISTENER_HBONE4,
	LISTENER_HBONE6,
	LISTENER_OUTBOUND4,
	LISTENER_OUTBOUND6,
};

struct listener_key {
	__u64 netns;
	enum listener_kind kind;
	__u32 pad;
};

enum sock_kind {
	SOCK_NONE,
	SOCK_STEERED, /* app's socket; dst is where it wanted to go */
	SOCK_ACCEPTED, /* ztunnel's end of it; dst likewise */
	SOCK_ZTUNNEL, /* ztunnel's own; userspace wrote this stamp by fd */
	SOCK_INNER, /* likewise, and it poses as a client of the pod */
	SOCK_PROBE, /* kubelet's, on its way to a declared port */
	SOCK_PROBING, /* likewise, and its 4-tuple is published */
	SOCK_REFUSED, /* app's socket, sent where nobody answers */
};

struct sock_state {
	struct endpoint dst;
	enum sock_kind kind;
};

/* An address whose bits that are set in host are free. */
struct prefix {
	struct addr addr;
	struct addr host;
};

struct cidr {
	__u32 prefixlen; /* of the 128 bits below */
	struct addr addr;
};

/* Why a socket went where it went. Userspace takes the names from BTF. */
enum counter {
	OUTBOUND_STEERED,
	OUTBOUND_ZTUNNEL, /* passed: carries our stamp */
	OUTBOUND_LOCAL, /* passed: loopback, own address, 0.0.0.0 or :: */
	OUTBOUND_EXCLUDED, /* passed: by configuration */
	OUTBOUND_REFUSED_FAMILY, /* family not enrolled in this pod */
	OUTBOUND_REFUSED_LINK_LOCAL, /* IPv6 scope would be lost */
	OUTBOUND_REFUSED_STATE, /* destination could not be recorded */
	OUTBOUND_REFUSED_NOBODY, /* the registry knows that nobody is ready there */
	OUTBOUND_REFUSED_AGAIN, /* ztunnel could not reach it a moment ago */
	OUTBOUND_REFUSED_STAND_IN, /* SYN to one that no socket published; bound to a device of too many */
	OUTBOUND_REFUSED_LISTENER, /* ztunnel does not listen */
	OUTBOUND_REFUSED_TUPLE, /* inner leg would disturb a live connection */
	ORIGINAL_DST_LOST, /* could not be published; ztunnel refuses */
	ORIGINAL_DST_TAKEN, /* by ztunnel's accepted socket */
	PROBE_EXEMPTED,
	PROBE_LOST, /* could not be published; is steered */
	INBOUND_LOCAL, /* passed: from the pod itself */
	INBOUND_PROBE, /* passed: published 4-tuple */
	INBOUND_INNER, /* passed: our own leg to the app; is_taken() asks too */
	INBOUND_HBONE, /* steered */
	INBOUND_PLAINTEXT, /* steered */
	INBOUND_REFUSED_ADDRESS, /* not one of an enrolled pod */
	INBOUND_REFUSED_LISTENER, /* ztunnel does not listen */
	FORWARD_GUARDED, /* steered, lest the pod forward it; see forward.bpf.c */
	FORWARD_DROPPED, /* likewise, and ztunnel does not listen, or it hid what it is */
	COUNTERS,
};

/* ---- written by userspace ---- */

/* By netns cookie: pods whose outbound connections are steered.
 * Full: SteerOutbound fails.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct pod);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pods SEC(".maps");

/* Every address of a pod, to the netns cookie of its present owner: what
 * inbound steering and probes know a pod by. Full: SteerInbound fails.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pod_ips SEC(".maps");

/* The same, by owner: what a pod may reach as its own. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pod_addr);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} own_ips SEC(".maps");

/* ztunnel's listeners. An entry vanishes with its socket, whereupon connections
 * are reset. Full: SteerInbound fails.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 24576); /* 6 for each of pods */
	__type(key, struct listener_key);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} listeners SEC(".maps");

/* Ports of a pod's own probes and lifecycle handlers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pod_port);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} probe_ports SEC(".maps");

/* Pods that forward: ports at which plaintext is refused (1) or not (0); port 0
 * stands for all others. Full: GuardForwarding fails, the pod is not verified.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pod_port);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} forward_guard SEC(".maps");

/* Our legs to an app that are being opened, to the time in ns. Userspace
 * writes before connect(); sockops deletes when the app's socket exists, so
 * that nobody else can come by the same tuple. Not an LRU: an evicted entry
 * would steer our own SYN back to us. Full: the connection is refused.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct cidr);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} excluded_cidrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be16);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} excluded_ports SEC(".maps");

/* Destinations of which the registry knows that nobody is ready there, for all
 * pods. Full: SetNobody fails, and those left out are refused by ztunnel.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} nobody SEC(".maps");

/* Destinations that ztunnel could not reach for a pod, to the time in ns until
 * which the pod is refused. Full: the oldest are asked for again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct pod_endpoint);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} refused_until SEC(".maps");

/* Netns that Route changed, to the sysctls which it did not find set: bits in
 * the order of redirect's list. No program reads it. Full: the oldest keeps its
 * sysctls when it leaves.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} routed SEC(".maps");

/* ---- written by the programs ---- */

/* What we know of a socket; lives and dies with it. The programs write what
 * they did, userspace writes the stamp of ztunnel's own sockets and reads the
 * original destination of those it accepted. No memory: refused.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sock_state);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sockets SEC(".maps");

/* From an app's SYN to the accepted socket, microseconds later. Only what
 * stands here reaches the outbound listener. Full: the oldest is lost, and the
 * connection it belonged to is refused. userspace deletes what nobody took.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow);
	__type(value, struct published);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} original_dst SEC(".maps");

/* Probes being opened, to the time in ns; deleted when the app's socket
 * exists or the prober's is closed. Full: the oldest probe is steered.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct flow);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} bypass SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

/* Prefixes of stand-ins, one of each family, and their id. A pod whose netns was
 * prepared for others, or by an older ztunnel, is not sent to these. Set by
 * redirect.Load.
 */
const volatile __u32 stand_ins;
const volatile struct prefix stand_in4;
const volatile struct prefix stand_in6;

/* clang merges `v4 ? ctx->a : ctx->b` into one load from ctx plus a register,
 * which the verifier rejects. This keeps each load of a ctx field by itself.
 */
#define CTX_READ(field)                       \
	({                                    \
		__u32 __v = (field);          \
		asm volatile("" : "+r"(__v)); \
		__v;                          \
	})

#define CTX_ADDR6(field)                                                  \
	((struct addr){ .word = { CTX_READ(field[0]), CTX_READ(field[1]), \
				  CTX_READ(field[2]), CTX_READ(field[3]) } })

/* A function of its own also puts the enum into BTF. */
static __noinline void count(enum counter reason)
{
	__u32 key = reason;
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	if (value)
		(*value)++;
}

static __always_inline struct addr addr4(__be32 ip)
{
	return (struct addr){ .word = { 0, 0, bpf_htonl(0xffff), ip } };
}

static __always_inline bool is_ipv4(const struct addr *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool same(const struct addr *a, const struct addr *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] &&
	       a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

static __always_inline bool is_link_local6(const struct addr *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool is_loopback(const struct addr *a)
{
	if (is_ipv4(a))
		return bpf_ntohl(a->word[3]) >> 24 == 127;
	return !a->word[0] && !a->word[1] && !a->word[2] && a->word[3] == bpf_htonl(1);
}

static __always_inline bool is_unspecified(const struct addr *a)
{
	return !a->word[0] && !a->word[1] && !a->word[3] &&
	       (!a->word[2] || a->word[2] == bpf_htonl(0xffff));
}

static __always_inline bool is_within(const struct addr *a,
				      const volatile struct prefix *p)
{
	return !(((a->word[0] ^ p->addr.word[0]) & ~p->host.word[0]) |
		 ((a->word[1] ^ p->addr.word[1]) & ~p->host.word[1]) |
		 ((a->word[2] ^ p->addr.word[2]) & ~p->host.word[2]) |
		 ((a->word[3] ^ p->addr.word[3]) & ~p->host.word[3]));
}

static __always_inline bool is_stand_in(const struct addr *a)
{
	return is_ipv4(a) ? is_within(a, &stand_in4) : is_within(a, &stand_in6);
}

#endif /* MESH_H */
