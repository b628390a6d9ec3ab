// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* Outbound steering: connect() in an enrolled pod reaches ztunnel's listener
 * in the pod's own netns. A kubelet's probe of an enrolled pod is let through.
 *
 *   connect       the app names a destination: keep it with the socket, and
 *                 point the socket at our listener
 *   sockops       TCP_CONNECT: the source port is chosen, the SYN not sent:
 *                 publish the 4-tuple with the destination kept
 *                 PASSIVE_ESTABLISHED, on ztunnel's end, before accept():
 *                 take the destination from there into the new socket
 *   userspace     accept(), then read the socket's own entry by fd
 *   getpeername   show the app the peer it asked for
 *
 * The destination becomes a stand-in: an address for this destination alone, so
 * that the limits which TCP has for each destination (ports, TIME_WAIT, one
 * bound source port) stay limits for each. The pod's netns routes stand-ins to
 * itself, from the address that it would use, so that getsockname() is right;
 * sk_lookup hands them to our listener if their 4-tuple was published. The port
 * is the listener's, on which no app can listen.
 *
 * The route gone, connect() gives ENETUNREACH: see ztunnel/redirect/route.go.
 * To keep the destination and route by mark instead would send plaintext to it.
 *
 * An enrolled pod never falls back to plaintext. What cannot be recorded is
 * refused: here as EPERM from connect(), later by userspace finding no entry.
 * With no listener, the app gets ECONNREFUSED.
 *
 * ztunnel's own sockets are known by a stamp that only the holder of the map
 * can write; not by mark (CAP_NET_RAW suffices to set one) and not by cgroup
 * (on hybrid hosts every process may be in the root one).
 */
#include "mesh.h"

enum verdict { DENY = 0, ALLOW = 1 };

/* Set by redirect.Load before the programs are verified. */
const volatile __u64 host_netns; /* cookie */
const volatile __u32 exclusions; /* CIDRs and ports; 0: nobody looks for them */
const volatile __u32 inner_mark; /* what has it is local in a pod's netns, whatever its address */

/* The id of kubelet's cgroup now, or 0: no probe is exempt. Not const: userspace
 * changes it, as a kubelet that is restarted has another cgroup.
 */
volatile __u64 kubelet_cgroup;

/* Set by userspace at any time, so that a connect() looks only for what is there. */
__u32 nobody_known; /* the map nobody has entries */
__u64 refused_last; /* the time in ns until which any entry of refused_until counts */

static __always_inline struct sock_state *state_of(struct bpf_sock *sk)
{
	return bpf_sk_storage_get(&sockets, sk, 0, 0);
}

static __always_inline struct sock_state *make_state(struct bpf_sock *sk)
{
	return bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
}

/* A socket may be connected again, after a refusal or by AF_UNSPEC: what we
 * did to it the last time must not show. The stamp stays.
 */
static __always_inline void forget(struct sock_state *state)
{
	if (state && state->kind != SOCK_ZTUNNEL && state->kind != SOCK_INNER)
		state->kind = SOCK_NONE;
}

/* The verifier lets a hook read the fields of its own family only, so that
 * the family is an argument, a constant of each hook.
 */
static __always_inline struct endpoint destination(struct bpf_sock_addr *ctx, int family)
{
	struct endpoint dst = {};

	if (family == AF_INET)
		dst.addr = addr4(CTX_READ(ctx->user_ip4));
	else
		dst.addr = CTX_ADDR6(ctx->user_ip6);
	dst.port = CTX_READ(ctx->user_port);
	return dst;
}

/* Writes an address of the same kind as the one that was there: a v4-mapped
 * destination stays v4-mapped.
 */
static __always_inline void set_address(struct bpf_sock_addr *ctx, int family,
					const struct addr *addr, __be16 port)
{
	if (family == AF_INET) {
		ctx->user_ip4 = addr->word[3];
	} else {
		ctx->user_ip6[0] = addr->word[0];
		ctx->user_ip6[1] = addr->word[1];
		ctx->user_ip6[2] = addr->word[2];
		ctx->user_ip6[3] = addr->word[3];
	}
	ctx->user_port = port;
}

/* Only kubelet's own cgroup, no ancestor: where kubelet is part of a larger
 * service (k3s), containers live below it.
 */
static __always_inline bool is_kubelet(void)
{
	__u64 id = kubelet_cgroup;

	return id && bpf_get_current_cgroup_id() == id;
}

/* A probe is a connection of the kubelet, from the node's netns, to a port
 * that the pod's own spec has it probe. All other connections of the node are
 * steered when they arrive in the pod, as anyone else's.
 */
static __always_inline void mark_probe(struct bpf_sock_addr *ctx, int family)
{
	struct endpoint dst = destination(ctx, family);
	struct pod_port key = { .port = dst.port };
	__u64 *netns = bpf_map_lookup_elem(&pod_ips, &dst.addr);
	struct sock_state *state;

	if (!netns)
		return;
	key.netns = *netns;
	if (!bpf_map_lookup_elem(&probe_ports, &key) || !is_kubelet())
		return;
	state = make_state(ctx->sk);
	if (state)
		state->kind = SOCK_PROBE;
}

static __always_inline bool is_own(__u64 netns, const struct addr *addr)
{
	struct pod_addr key = { .netns = netns, .addr = *addr };

	return is_loopback(addr) || is_unspecified(addr) ||
	       bpf_map_lookup_elem(&own_ips, &key);
}

static __always_inline bool is_excluded(const struct endpoint *dst)
{
	struct cidr cidr = { .prefixlen = 128, .addr = dst->addr };

	if (!exclusions)
		return false;
	return bpf_map_lookup_elem(&excluded_ports, &dst->port) ||
	       bpf_map_lookup_elem(&excluded_cidrs, &cidr);
}

/* The inner leg poses as a client. If that client has a live connection with
 * the app from the same port, our SYN would reach it, and our answer to its
 * answer would reset it: userspace shall try another port.
 */
static __always_inline bool is_taken(struct bpf_sock_addr *ctx, int family,
				     struct endpoint *dst)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	bool taken;

	if (family == AF_INET) {
		tuple.ipv4.saddr = ctx->sk->src_ip4;
		tuple.ipv4.daddr = dst->addr.word[3];
		tuple.ipv4.sport = bpf_htons(ctx->sk->src_port);
		tuple.ipv4.dport = dst->port;
		sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4),
				       BPF_F_CURRENT_NETNS, 0);
	} else {
		tuple.ipv6.saddr[0] = ctx->sk->src_ip6[0];
		tuple.ipv6.saddr[1] = ctx->sk->src_ip6[1];
		tuple.ipv6.saddr[2] = ctx->sk->src_ip6[2];
		tuple.ipv6.saddr[3] = ctx->sk->src_ip6[3];
		__builtin_memcpy(tuple.ipv6.daddr, &dst->addr, sizeof(dst->addr));
		tuple.ipv6.sport = bpf_htons(ctx->sk->src_port);
		tuple.ipv6.dport = dst->port;
		sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6),
				       BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	taken = sk->state != BPF_TCP_LISTEN && sk->state != BPF_TCP_TIME_WAIT;
	bpf_sk_release(sk);
	return taken;
}

static __always_inline void set_mark(struct bpf_sock_addr *ctx, __u32 mark)
{
	bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
}

/* An address may leave the pod while no ztunnel runs that could say so, or while
 * the connection is open, and be another pod's. By the mark that our inner legs
 * have, and the rule for it, what is sent there stays in the pod: if the address
 * is still the pod's, the table local has it, and the rule is not asked. A mark of
 * the app's own is left alone.
 */
static __always_inline void keep_inside(struct bpf_sock_addr *ctx, const struct addr *dst)
{
	if (!is_loopback(dst) && !is_unspecified(dst) && !ctx->sk->mark)
		set_mark(ctx, inner_mark);
}

/* A socket that is connected again must not bear the mark of the last time. */
static __always_inline void let_outside(struct bpf_sock_addr *ctx)
{
	if (ctx->sk->mark == inner_mark)
		set_mark(ctx, 0);
}

/* Before connect() chooses one, a socket has a source address by bind() only. */
static __always_inline bool is_bound(struct bpf_sock_addr *ctx, int family)
{
	struct addr src;

	if (family == AF_INET)
		src = addr4(ctx->sk->src_ip4);
	else
		src = (struct addr){ .word = { ctx->sk->src_ip6[0], ctx->sk->src_ip6[1],
					       ctx->sk->src_ip6[2], ctx->sk->src_ip6[3] } };
	return !is_unspecified(&src);
}

static __always_inline enum verdict pass(struct sock_state *state, enum counter reason)
{
	forget(state);
	count(reason);
	return ALLOW;
}

static __always_inline enum verdict refuse(enum counter reason)
{
	count(reason);
	return DENY;
}

static __always_inline __u64 mix(__u64 h, __u64 more)
{
	h = (h ^ more) * 0x9e3779b97f4a7c15;
	return h ^ h >> 32;
}

/* Two destinations that collide share their ports, as all did before. Whoever
 * looks for such finds them for his own netns only: no seed is needed.
 */
static __always_inline struct addr stand_in(const struct endpoint *dst)
{
	const struct addr *a = &dst->addr;
	__u64 h = 0x243f6a8885a308d3;

	h = mix(h, (__u64)a->word[0] << 32 | a->word[1]);
	h = mix(h, (__u64)a->word[2] << 32 | a->word[3]);
	h = mix(h, dst->port);
	if (is_ipv4(a))
		return addr4(stand_in4.addr.word[3] |
			     ((__u32)h & stand_in4.host.word[3]));
	return (struct addr){ .word = {
		stand_in6.addr.word[0],
		stand_in6.addr.word[1],
		stand_in6.addr.word[2] | ((__u32)(h >> 32) & stand_in6.host.word[2]),
		stand_in6.addr.word[3] | ((__u32)h & stand_in6.host.word[3]),
	} };
}

/* sk_lookup finds the pod by an address of its own: by the source, or, if that
 * is loopback, by the destination.
 */
static __always_inline bool is_bound_to_loopback(struct bpf_sock_addr *ctx, int family)
{
	struct addr src;

	if (family == AF_INET)
		src = addr4(ctx->sk->src_ip4);
	else
		src = (struct addr){ .word = { ctx->sk->src_ip6[0], ctx->sk->src_ip6[1],
					       ctx->sk->src_ip6[2], ctx->sk->src_ip6[3] } };
	return is_loopback(&src);
}

static __always_inline bool has_stand_ins(const struct pod *pod)
{
	return (pod->stand_ins | UNCROWDED) == stand_ins;
}

/* Loopback, the first device of each netns, always has a route. */
static __always_inline bool is_off_route(struct bpf_sock_addr *ctx, const struct pod *pod)
{
	return has_stand_ins(pod) && !(pod->stand_ins & UNCROWDED) &&
	       ctx->sk->bound_dev_if > 1;
}

/* Where the connection shall go instead of to dst. */
static __always_inline struct addr detour(struct bpf_sock_addr *ctx, int family,
					  const struct pod *pod,
					  const struct endpoint *dst)
{
	if (has_stand_ins(pod) && !is_bound_to_loopback(ctx, family))
		return stand_in(dst);
	return is_ipv4(&dst->addr) ? pod->addr4 : pod->addr6;
}

static __always_inline bool is_refused(__u64 netns, const struct endpoint *dst)
{
	struct pod_endpoint key = { .netns = netns, .dst = *dst };
	__u64 *until, now;

	if (nobody_known && bpf_map_lookup_elem(&nobody, dst)) {
		count(OUTBOUND_REFUSED_NOBODY);
		return true;
	}
	if (!refused_last)
		return false;
	now = bpf_ktime_get_coarse_ns();
	if (now >= refused_last)
		return false;
	until = bpf_map_lookup_elem(&refused_until, &key);
	if (until && now < *until) {
		count(OUTBOUND_REFUSED_AGAIN);
		return true;
	}
	return false;
}

static __always_inline enum verdict
steer_outbound(struct bpf_sock_addr *ctx, int family, __u64 netns,
	       const struct pod *pod, struct endpoint *dst)
{
	__be16 port = is_ipv4(&dst->addr) ? pod->port4 : pod->port6;
	struct sock_state *state;
	struct addr to;

	if (!port)
		return refuse(OUTBOUND_REFUSED_FAMILY);
	/* connect() needs the scope, which we do not see and could not dial. */
	if (is_link_local6(&dst->addr))
		return refuse(OUTBOUND_REFUSED_LINK_LOCAL);
	if (is_off_route(ctx, pod))
		return refuse(OUTBOUND_REFUSED_STAND_IN);
	state = make_state(ctx->sk);
	if (!state)
		return refuse(OUTBOUND_REFUSED_STATE);
	/* A stand-in that is not published answers with a reset: the app gets
	 * ECONNREFUSED, as bpf_set_retval() could say since Linux 5.18 only.
	 */
	if (has_stand_ins(pod) && is_refused(netns, dst)) {
		to = stand_in(dst);
		state->kind = SOCK_REFUSED;
		set_address(ctx, family, &to, port);
		return ALLOW;
	}
	to = detour(ctx, family, pod, dst);
	state->dst = *dst;
	state->dst.bound = is_bound(ctx, family);
	state->kind = SOCK_STEERED;
	set_address(ctx, family, &to, port);
	count(OUTBOUND_STEERED);
	return ALLOW;
}

static __always_inline enum verdict on_connect(struct bpf_sock_addr *ctx, int family)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct sock_state *state;
	struct endpoint dst;
	struct pod *pod;

	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_MPTCP)
		return ALLOW;
	pod = bpf_map_lookup_elem(&pods, &netns);
	if (!ctx->sk)
		return pod ? refuse(OUTBOUND_REFUSED_STATE) : ALLOW;
	state = state_of(ctx->sk);
	if (!pod) {
		forget(state);
		if (netns == host_netns)
			mark_probe(ctx, family);
		return ALLOW;
	}

	dst = destination(ctx, family);
	if (state && state->kind == SOCK_INNER && is_taken(ctx, family, &dst))
		return refuse(OUTBOUND_REFUSED_TUPLE);
	if (state && (state->kind == SOCK_ZTUNNEL || state->kind == SOCK_INNER)) {
		count(OUTBOUND_ZTUNNEL);
		return ALLOW;
	}
	let_outside(ctx);
	if (is_own(netns, &dst.addr)) {
		keep_inside(ctx, &dst.addr);
		return pass(state, OUTBOUND_LOCAL);
	}
	if (is_excluded(&dst))
		return pass(state, OUTBOUND_EXCLUDED);
	return steer_outbound(ctx, family, netns, pod, &dst);
}

SEC("cgroup/connect4")
int outbound_connect4(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, AF_INET);
}

SEC("cgroup/connect6")
int outbound_connect6(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, AF_INET6);
}

static __always_inline int on_getpeername(struct bpf_sock_addr *ctx, int family)
{
	struct sock_state *state;

	if (!ctx->sk)
		return ALLOW;
	state = state_of(ctx->sk);
	if (state && state->kind == SOCK_STEERED)
		set_address(ctx, family, &state->dst.addr, state->dst.port);
	return ALLOW;
}

SEC("cgroup/getpeername4")
int outbound_getpeername4(struct bpf_sock_addr *ctx)
{
	return on_getpeername(ctx, AF_INET);
}

SEC("cgroup/getpeername6")
int outbound_getpeername6(struct bpf_sock_addr *ctx)
{
	return on_getpeername(ctx, AF_INET6);
}

/* local_port is in host order; remote_port is in network order, in the upper
 * half on little-endian machines.
 */
static __always_inline struct endpoint sockops_local(struct bpf_sock_ops *ctx)
{
	struct endpoint e = {};

	if (ctx->family == AF_INET)
		e.addr = addr4(CTX_READ(ctx->local_ip4));
	else
		e.addr = CTX_ADDR6(ctx->local_ip6);
	e.port = bpf_htons(CTX_READ(ctx->local_port));
	return e;
}

static __always_inline struct endpoint sockops_remote(struct bpf_sock_ops *ctx)
{
	struct endpoint e = {};

	if (ctx->family == AF_INET)
		e.addr = addr4(CTX_READ(ctx->remote_ip4));
	else
		e.addr = CTX_ADDR6(ctx->remote_ip6);
	e.port = bpf_htons(bpf_ntohl(CTX_READ(ctx->remote_port)));
	return e;
}

static __always_inline struct flow make_flow(__u64 netns, const struct endpoint *src,
					     const struct endpoint *dst)
{
	return (struct flow){
		.netns = netns,
		.src = src->addr,
		.dst = dst->addr,
		.sport = src->port,
		.dport = dst->port,
	};
}

/* The flow of a probe, as the pod's netns will see it. */
static __always_inline bool probe_flow(struct bpf_sock_ops *ctx, struct flow *flow)
{
	struct endpoint local = sockops_local(ctx), remote = sockops_remote(ctx);
	__u64 *netns = bpf_map_lookup_elem(&pod_ips, &remote.addr);

	if (!netns)
		return false;
	*flow = make_flow(*netns, &local, &remote);
	return true;
}

static __always_inline void publish_probe(struct bpf_sock_ops *ctx,
					  struct sock_state *state)
{
	__u64 now = bpf_ktime_get_ns();
	struct flow flow;

	state->kind = SOCK_NONE;
	if (!probe_flow(ctx, &flow) ||
	    bpf_map_update_elem(&bypass, &flow, &now, BPF_ANY)) {
		count(PROBE_LOST);
		return;
	}
	state->kind = SOCK_PROBING;
	count(PROBE_EXEMPTED);
	/* So that we hear of the socket's end. */
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags |
					       BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void on_tcp_connect(struct bpf_sock_ops *ctx)
{
	struct sock_state *state;
	struct published original = {};
	struct endpoint src, dst;
	struct flow flow;

	if (!ctx->sk)
		return;
	state = state_of(ctx->sk);
	if (!state)
		return;
	if (state->kind == SOCK_PROBE) {
		publish_probe(ctx, state);
		return;
	}
	if (state->kind != SOCK_STEERED && state->kind != SOCK_REFUSED)
		return;
	src = sockops_local(ctx);
	dst = sockops_remote(ctx);
	flow = make_flow(bpf_get_netns_cookie(ctx), &src, &dst);
	if (state->kind == SOCK_REFUSED) {
		/* What an earlier connection left there would let it through. */
		bpf_map_delete_elem(&original_dst, &flow);
		return;
	}
	original.dst = state->dst;
	original.since = bpf_ktime_get_coarse_ns();
	if (bpf_map_update_elem(&original_dst, &flow, &original, BPF_ANY))
		count(ORIGINAL_DST_LOST);
}

static __always_inline void on_passive_established(struct bpf_sock_ops *ctx)
{
	struct endpoint src = sockops_remote(ctx), dst = sockops_local(ctx);
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct flow flow = make_flow(netns, &src, &dst);
	struct published *original;
	struct sock_state *state;

	/* Not only in pods that are enrolled now: one may have been unenrolled
	 * between the app's SYN and this.
	 */
	original = bpf_map_lookup_elem(&original_dst, &flow);
	if (original && ctx->sk) {
		state = make_state(ctx->sk);
		if (state) {
			state->dst = original->dst;
			/* An LRU gives an evicted element to another key at once:
			 * what was read is ours if the element still is.
			 */
			if (bpf_map_lookup_elem(&original_dst, &flow)) {
				state->kind = SOCK_ACCEPTED;
				count(ORIGINAL_DST_TAKEN);
			}
		}
		bpf_map_delete_elem(&original_dst, &flow);
		return;
	}
	if (!bpf_map_lookup_elem(&pods, &netns))
		return;
	/* The app's end exists: nobody else shall come by this tuple. */
	bpf_map_delete_elem(&inner, &flow);
	bpf_map_delete_elem(&bypass, &flow);
}

static __always_inline void on_state(struct bpf_sock_ops *ctx)
{
	struct sock_state *state;
	struct flow flow;

	if (ctx->args[1] != BPF_TCP_CLOSE || !ctx->sk)
		return;
	state = state_of(ctx->sk);
	if (!state || state->kind != SOCK_PROBING)
		return;
	state->kind = SOCK_NONE;
	if (probe_flow(ctx, &flow))
		bpf_map_delete_elem(&bypass, &flow);
}

SEC("sockops")
int outbound_sockops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_tcp_connect(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_passive_established(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		on_state(ctx);
		break;
	}
	return 1;
}
