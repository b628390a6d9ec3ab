// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* Inbound steering: a SYN that arrives in an enrolled pod reaches ztunnel's
 * listener in the pod's own netns.
 *
 *   sk_lookup  no established socket matches: pass what the pod sends to
 *              itself, a published probe and our own leg to the app; hand
 *              HBONE_PORT to the HBONE listener, the rest to the other
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

static __always_inline int steer_inbound(struct bpf_sk_lookup *ctx, __u64 netns)
{
	bool hbone = ctx->local_port == HBONE_PORT;
	struct listener_key key = { .netns = netns };
	struct bpf_sock *sk;
	long err;

	if (ctx->family == AF_INET)
		key.kind = hbone ? LISTENER_HBONE4 : LISTENER_PLAINTEXT4;
	else
		key.kind = hbone ? LISTENER_HBONE6 : LISTENER_PLAINTEXT6;

	sk = bpf_map_lookup_elem(&listeners, &key);
	if (!sk) {
		count(INBOUND_REFUSED_LISTENER);
		return SK_DROP;
	}
	err = bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	if (err) {
		count(INBOUND_REFUSED_LISTENER);
		return SK_DROP;
	}
	count(hbone ? INBOUND_HBONE : INBOUND_PLAINTEXT);
	return SK_PASS;
}

SEC("sk_lookup")
int inbound_lookup(struct bpf_sk_lookup *ctx)
{
	struct addr local, remote;
	struct flow flow = {};
	__u64 *netns, *owner;

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;

	local = local_addr(ctx);
	remote = remote_addr(ctx);
	/* From outside, neither can be: the kernel drops packets from the wire
	 * that claim a loopback source or (IPv4, accept_local=0) one of our
	 * addresses; and a forged IPv6 one cannot be answered but to ourselves.
	 */
	if (is_loopback(&local) || is_loopback(&remote) || same(&local, &remote)) {
		count(INBOUND_LOCAL);
		return SK_PASS;
	}
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

	flow.netns = *netns;
	flow.src = remote;
	flow.dst = local;
	flow.sport = ctx->remote_port;
	flow.dport = bpf_htons(ctx->local_port); /* host order, unlike remote_port */
	if (fresh(bpf_map_lookup_elem(&inner, &flow), INNER_LIFETIME_NS)) {
		count(INBOUND_INNER);
		return SK_PASS;
	}
	if (fresh(bpf_map_lookup_elem(&bypass, &flow), PROBE_LIFETIME_NS)) {
		count(INBOUND_PROBE);
		return SK_PASS;
	}
	return steer_inbound(ctx, *netns);
}
