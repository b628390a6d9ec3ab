// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* Inbound steering: a SYN that arrives in an enrolled pod reaches ztunnel's
 * listener in the pod's own netns.
 *
 *   sk_lookup  no established socket matches: pass what the pod sends to
 *              itself, a published probe and our own leg to the app; hand
 *              HBONE_PORT to the HBONE listener, the rest to the other.
 *              What the pod's own sockets published goes to the outbound
 *              listener, and nothing else does
 *
 * It does not run for packets of connections that exist, so nothing that was
 * open breaks when it is attached or detached. The socket it picks keeps the
 * packet's local address: ztunnel learns the destination by getsockname().
 *
 * What cannot be steered is dropped, which the client sees as a reset.
 */
#include "mesh.h"

static __always_inline struct addr local_addr(struct bpf_sk_lookup *ctx)
{
	if (ctx->family == AF_INET)
		return addr4(CTX_READ(ctx->local_ip4));
	return CTX_ADDR6(ctx->local_ip6);
}

static __always_inline struct addr remote_addr(struct bpf_sk_lookup *ctx)
{
	if (ctx->family == AF_INET)
		return addr4(CTX_READ(ctx->remote_ip4));
	return CTX_ADDR6(ctx->remote_ip6);
}

static __always_inline bool fresh(const __u64 *since, __u64 lifetime)
{
	return since && bpf_ktime_get_ns() - *since < lifetime;
}

static __always_inline int hand_to(struct bpf_sk_lookup *ctx, __u64 netns,
				   enum listener_kind kind, enum counter missing)
{
	struct listener_key key = { .netns = netns, .kind = kind };
	struct bpf_sock *sk;
	long err;

	sk = bpf_map_lookup_elem(&listeners, &key);
	if (!sk) {
		count(missing);
		return SK_DROP;
	}
	err = bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	if (err) {
		count(missing);
		return SK_DROP;
	}
	return SK_PASS;
}

static __always_inline int hand_inbound(struct bpf_sk_lookup *ctx, __u64 netns)
{
	bool v4 = ctx->family == AF_INET;
	bool hbone = ctx->local_port == HBONE_PORT;
	enum listener_kind kind;
	int verdict;

	if (hbone)
		kind = v4 ? LISTENER_HBONE4 : LISTENER_HBONE6;
	else
		kind = v4 ? LISTENER_PLAINTEXT4 : LISTENER_PLAINTEXT6;
	verdict = hand_to(ctx, netns, kind, INBOUND_REFUSED_LISTENER);
	if (verdict == SK_PASS)
		count(hbone ? INBOUND_HBONE : INBOUND_PLAINTEXT);
	return verdict;
}

static __always_inline int hand_outbound(struct bpf_sk_lookup *ctx, __u64 netns)
{
	return hand_to(ctx, netns,
		       ctx->family == AF_INET ? LISTENER_OUTBOUND4 : LISTENER_OUTBOUND6,
		       OUTBOUND_REFUSED_LISTENER);
}

static __always_inline struct flow flow_of(struct bpf_sk_lookup *ctx, __u64 netns,
					   const struct addr *local,
					   const struct addr *remote)
{
	return (struct flow){
		.netns = netns,
		.src = *remote,
		.dst = *local,
		.sport = ctx->remote_port,
		.dport = bpf_htons(ctx->local_port), /* host order, unlike remote_port */
	};
}

/* The pod's own socket has published the 4-tuple. Nobody on the wire can have
 * done so, and stand-ins are as good as any address of the pod's to them.
 */
static __always_inline int on_stand_in(struct bpf_sk_lookup *ctx,
				       const struct addr *local,
				       const struct addr *remote)
{
	__u64 *netns = bpf_map_lookup_elem(&pod_ips, remote);
	struct flow flow;

	if (netns) {
		flow = flow_of(ctx, *netns, local, remote);
		if (bpf_map_lookup_elem(&original_dst, &flow))
			return hand_outbound(ctx, *netns);
	}
	count(OUTBOUND_REFUSED_STAND_IN);
	return SK_DROP;
}

/* From loopback to an address of the pod: an app's connection to itself, or
 * one that is steered and whose socket is bound to loopback.
 */
static __always_inline int from_loopback(struct bpf_sk_lookup *ctx,
					 const struct addr *local,
					 const struct addr *remote)
{
	__u64 *netns = bpf_map_lookup_elem(&pod_ips, local);
	struct flow flow;

	if (netns) {
		flow = flow_of(ctx, *netns, local, remote);
		if (bpf_map_lookup_elem(&original_dst, &flow))
			return hand_outbound(ctx, *netns);
	}
	count(INBOUND_LOCAL);
	return SK_PASS;
}

SEC("sk_lookup")
int inbound_lookup(struct bpf_sk_lookup *ctx)
{
	struct addr local, remote;
	__u64 *netns, *owner;
	struct flow flow;

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;

	local = local_addr(ctx);
	remote = remote_addr(ctx);
	if (is_stand_in(&local))
		return on_stand_in(ctx, &local, &remote);
	/* From outside, none of these can be: the kernel drops packets from the wire
	 * that claim a loopback source or (IPv4, accept_local=0) one of our
	 * addresses; and a forged IPv6 one cannot be answered but to ourselves.
	 */
	if (is_loopback(&local) || same(&local, &remote)) {
		count(INBOUND_LOCAL);
		return SK_PASS;
	}
	if (is_loopback(&remote))
		return from_loopback(ctx, &local, &remote);
	netns = bpf_map_lookup_elem(&pod_ips, &local);
	if (!netns) {
		count(INBOUND_REFUSED_ADDRESS);
		return SK_DROP;
	}
	owner = bpf_map_lookup_elem(&pod_ips, &remote);
	if (owner && *owner == *netns) {
		count(INBOUND_LOCAL);
		return SK_PASS;
	}

	flow = flow_of(ctx, *netns, &local, &remote);
	if (fresh(bpf_map_lookup_elem(&inner, &flow), INNER_LIFETIME_NS)) {
		count(INBOUND_INNER);
		return SK_PASS;
	}
	if (fresh(bpf_map_lookup_elem(&bypass, &flow), PROBE_LIFETIME_NS)) {
		count(INBOUND_PROBE);
		return SK_PASS;
	}
	return hand_inbound(ctx, *netns);
}
