// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* Guard of a pod that forwards to another netns (docker in docker, a virtual
 * machine behind NAT). What such a pod translates and forwards reaches none of
 * its sockets, so that sk_lookup never sees it.
 *
 *   tc ingress   of the pod's devices, before any NAT: give a SYN for a port
 *                that must not be plaintext to ztunnel's listener
 *
 * A packet that has a socket is delivered to it if its destination is local.
 * If NAT then sends it elsewhere, the kernel drops it: ip_forward() and
 * ip6_forward() forward nothing that has a socket. Established connections
 * are not touched: only a SYN is looked at.
 */
#include "mesh.h"

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IP_MF_OR_OFFSET 0x3fff
#define IP_OFFSET 0x1fff
#define IPV6_HEADERS 8 /* that may stand before TCP; more are dropped */

#define TC_NEXT (-1) /* TC_ACT_UNSPEC: ask the next filter */
#define TC_DROP 2 /* TC_ACT_SHOT */

#define PACKET_HOST 0

#define TCP_SYN_ACK_RST 0x16
#define TCP_SYN 0x02

/* From the network header on: not every device has Ethernet's before it. */
static __always_inline long load(struct __sk_buff *skb, __u32 off, void *to, __u32 len)
{
	return bpf_skb_load_bytes_relative(skb, off, to, len, BPF_HDR_START_NET);
}

struct arriving {
	struct addr src;
	struct addr dst;
	__u32 tcp; /* offset of the TCP header; 0: not TCP, or a later fragment */
	bool fragment;
};

static __always_inline bool parse4(struct __sk_buff *skb, struct arriving *p)
{
	__u8 ip[20];
	__u16 frag;

	if (load(skb, 0, ip, sizeof(ip)))
		return false;
	p->src = addr4(*(__be32 *)(ip + 12));
	p->dst = addr4(*(__be32 *)(ip + 16));
	frag = (ip[6] << 8 | ip[7]) & IP_MF_OR_OFFSET;
	p->fragment = frag;
	if (ip[9] == IPPROTO_TCP && !(frag & IP_OFFSET))
		p->tcp = (ip[0] & 15) * 4;
	return true;
}

static __always_inline bool parse6(struct __sk_buff *skb, struct arriving *p)
{
	__u32 off = 40;
	__u8 next, head[4];

	if (load(skb, 6, &next, 1) ||
	    load(skb, 8, &p->src, sizeof(p->src)) ||
	    load(skb, 24, &p->dst, sizeof(p->dst)))
		return false;
	for (int i = 0; i < IPV6_HEADERS; i++) {
		if (next == IPPROTO_TCP) {
			p->tcp = off;
			return true;
		}
		if (next != 0 && next != 43 && next != 44 && next != 60)
			return true; /* not hop-by-hop, routing, fragment, options */
		if (load(skb, off, head, sizeof(head)))
			return false;
		if (next == 44) {
			p->fragment = true;
			if ((head[2] << 8 | head[3]) & 0xfff8)
				return true; /* not the first */
			off += 8;
		} else {
			off += (head[1] + 1) * 8;
		}
		next = head[0];
	}
	return false;
}

/* Whether plaintext to this port of the pod is refused, by the port's own
 * entry or by that of port 0, which stands for all others.
 */
static __always_inline bool is_guarded(__u64 netns, __be16 port)
{
	struct pod_port key = { .netns = netns, .port = port };
	__u8 *refuse = bpf_map_lookup_elem(&forward_guard, &key);

	if (!refuse) {
		key.port = 0;
		refuse = bpf_map_lookup_elem(&forward_guard, &key);
	}
	return refuse && *refuse;
}

static __always_inline int give_to_ztunnel(struct __sk_buff *skb, __u64 netns,
					   const struct arriving *p, __be16 dport)
{
	bool hbone = dport == bpf_htons(HBONE_PORT), v4 = is_ipv4(&p->dst);
	struct listener_key key = { .netns = netns };
	struct bpf_sock *sk;
	long err;

	key.kind = v4 ? (hbone ? LISTENER_HBONE4 : LISTENER_PLAINTEXT4) :
			(hbone ? LISTENER_HBONE6 : LISTENER_PLAINTEXT6);
	sk = bpf_map_lookup_elem(&listeners, &key);
	if (!sk) {
		count(FORWARD_DROPPED);
		return TC_DROP;
	}
	err = bpf_sk_assign(skb, sk, 0);
	bpf_sk_release(sk);
	if (err) {
		count(FORWARD_DROPPED);
		return TC_DROP;
	}
	count(FORWARD_GUARDED);
	return TC_NEXT;
}

SEC("tc")
int forward_ingress(struct __sk_buff *skb)
{
	struct arriving p = {};
	struct flow flow = {};
	__u8 tcp[14];
	__u64 *netns;
	bool whole;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		whole = parse4(skb, &p);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		whole = parse6(skb, &p);
	else
		return TC_NEXT;
	netns = bpf_map_lookup_elem(&pod_ips, &p.dst);
	/* Stand-ins are local to the pod, and NAT may take them for its own: none
	 * comes from the wire. What else is not the pod's is routed through it.
	 */
	if (!netns && is_stand_in(&p.dst)) {
		count(FORWARD_DROPPED);
		return TC_DROP;
	}
	/* No map has the IPv6 link-local addresses of a pod, at which sk_lookup
	 * accepts nothing: so nothing is lost if NAT gets nothing either. What a
	 * bridge of the pod's passes on is not for the pod.
	 */
	if (!netns && (!is_link_local6(&p.dst) || skb->pkt_type != PACKET_HOST))
		return TC_NEXT;
	if (whole && !p.tcp)
		return TC_NEXT;
	/* What hides its flags, in a header too short or too deep, is no SYN
	 * that anybody needs.
	 */
	if (!whole || load(skb, p.tcp, tcp, sizeof(tcp))) {
		count(FORWARD_DROPPED);
		return TC_DROP;
	}
	if ((tcp[13] & TCP_SYN_ACK_RST) != TCP_SYN)
		return TC_NEXT;
	if (!netns) {
		count(FORWARD_DROPPED);
		return TC_DROP;
	}

	flow.netns = *netns;
	flow.src = p.src;
	flow.dst = p.dst;
	flow.sport = *(__be16 *)tcp;
	flow.dport = *(__be16 *)(tcp + 2);
	if (!is_guarded(*netns, flow.dport) ||
	    fresh(bpf_map_lookup_elem(&bypass, &flow), PROBE_LIFETIME_NS))
		return TC_NEXT;
	if (p.fragment) { /* reassembly would lose the socket */
		count(FORWARD_DROPPED);
		return TC_DROP;
	}
	return give_to_ztunnel(skb, *netns, &p, flow.dport);
}
