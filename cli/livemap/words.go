// SPDX-License-Identifier: Apache-2.0

package livemap

// Word explains a word of the access record to whoever sees a refusal.
type Word struct {
	Means string `json:"means"`
	Hint  string `json:"hint"`
	Doc   string `json:"doc"` // in this repository
}

// words are those of the failure table in ARCHITECTURE.md by which connections are refused.
var words = map[string]Word{
	"denied": {"a policy refused it, here or at the peer; or a trusted root or the CA does not vouch for an end any more",
		"The policy is named where one refused it. Under STRICT a client outside the mesh is refused: label its namespace, or let the port be PERMISSIVE.", "docs/policy.md#peerauthentication"},
	"unknown_peer": {"the address lies inside the mesh CIDRs, and nobody known is there",
		"A pod that just went, a stale EndpointSlice, or CIDRs that are too wide.", "docs/troubleshooting.md"},
	"no_original_dst": {"nobody recorded where the app wanted to go",
		"Look at culvert_bpf_events_total and at readiness of the node's ztunnel.", "docs/troubleshooting.md"},
	"dial": {"the other side could not be reached",
		"A NetworkPolicy drops port 15008, the peer's ztunnel is gone, or the app does not listen: the error says which.", "docs/policy.md#let-tunnels-through"},
	"tls": {"the peer did not prove to be who it should be",
		"The pod at that address runs under another ServiceAccount than the registry says; or two trust domains or roots.", "docs/troubleshooting.md"},
	"identity": {"there is no certificate of the pod's own, or the pod is not known",
		"Look at the certificate below and at the CA: culvert certs list, culvert check.", "docs/observability.md#readiness"},
	"expired": {"a certificate of the tunnel ran out and was not replaced",
		"The CA has not renewed it in time: culvert certs list shows what it fails with.", "docs/checks.md"},
	"limit": {"out of descriptors or streams, or over the share of a pod or a peer",
		"The error names who is over its share.", "docs/troubleshooting.md"},
	"self_call": {"it was meant for ztunnel's own ports",
		"The app connects to port 15008 or to another port of ztunnel.", "docs/policy.md#what-is-refused-always"},
	"id_not_at_source": {"its identity is proved, and the registry does not have it at the tunnel's address",
		"A gateway or an address translation before the node: -id-at-source-exempt.", "docs/security.md"},
	"policy_changed": {"a policy allowed it and does no more",
		"A PeerAuthentication, an AuthorizationPolicy or a NetworkPolicy has changed.", "docs/policy.md"},
	"reset": {"one end broke it off, or its last bytes were not acknowledged",
		"The app or its node ended it, or the way between broke.", "docs/troubleshooting.md"},
	"drained": {"ztunnel stopped, or the pod was deleted",
		"It is the end of an upgrade or of a pod.", "docs/running.md"},
}
