#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What a cluster would provide, for a first run by hand on one machine. Needs
# bash and openssl, and for pods root, iproute2 and the reference CNI plugins.
set -euo pipefail

usage() {
	cat <<'TEXT'
Usage: first-run.sh files DIR     write into DIR what the programs read:
                                    key.pem    signs tokens; stands for the API server's
                                    jwks.json  its public half, for culvert-identity
                                    token      a node's, for ztunnel; good for a day
                                    objects/   a namespace of the mesh and two pods of node1
       first-run.sh pod NAME IP   make a pod of namespace demo: netns NAME, CNI ADD
       first-run.sh rm NAME IP    CNI DEL, and remove the netns

pod and rm find culvert-cni, ptp and host-local in PATH.
TEXT
}

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# sign prints the JWS signature of stdin: r and s of 32 bytes each, which openssl
# has as two numbers in DER.
sign() {
	openssl dgst -sha256 -sign "$1" | openssl asn1parse -inform DER |
		sed -n 's/.*INTEGER *://p' | while read -r number; do printf '%64s' "$number"; done |
		tr ' ' 0 | sed 's/../\\x&/g' | { IFS= read -r hex; printf '%b' "$hex"; } | base64url
}

jwks() {
	local x y
	x=$(openssl pkey -in "$1" -pubout -outform DER | tail -c 64 | head -c 32 | base64url)
	y=$(openssl pkey -in "$1" -pubout -outform DER | tail -c 32 | base64url)
	echo "{\"keys\": [{\"kty\": \"EC\", \"crv\": \"P-256\", \"alg\": \"ES256\", \"use\": \"sig\", \"kid\": \"first-run\", \"x\": \"$x\", \"y\": \"$y\"}]}"
}

# token prints what the kubelet of node1 projects into ztunnel's pod.
token() {
	local now header claims
	now=$(date +%s)
	header=$(printf '{"alg": "ES256", "kid": "first-run", "typ": "JWT"}' | base64url)
	claims=$(printf '{"aud": ["culvert-identity"], "iat": %d, "exp": %d, "sub": "system:serviceaccount:culvert-system:ztunnel",
		"iss": "https://kubernetes.default.svc.cluster.local",
		"kubernetes.io": {"namespace": "culvert-system", "node": {"name": "node1", "uid": "demo-node1"},
			"pod": {"name": "ztunnel", "uid": "demo-ztunnel"}, "serviceaccount": {"name": "ztunnel"}}}' \
		"$now" $((now + 86400)) | base64url)
	printf '%s.%s.%s' "$header" "$claims" "$(printf '%s' "$header.$claims" | sign "$1")"
}

namespace() {
	cat <<'TEXT'
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {culvert.dev/mesh: enabled}}
TEXT
}

pod_object() {
	cat <<TEXT
apiVersion: v1
kind: ServiceAccount
metadata: {name: $1, namespace: demo}
---
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: demo, uid: demo-$1}
spec:
  nodeName: node1
  serviceAccountName: $1
  containers: [{name: app, image: app}]
status: {phase: Running, podIP: $2, podIPs: [{ip: $2}]}
TEXT
}

files() {
	local dir=$1
	mkdir -p "$dir/objects"
	if [[ ! -e $dir/key.pem ]]; then
		(umask 077 && openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$dir/key.pem" 2>/dev/null)
	fi
	jwks "$dir/key.pem" >"$dir/jwks.json"
	(umask 077 && token "$dir/key.pem" >"$dir/token.new" && mv "$dir/token.new" "$dir/token")
	namespace >"$dir/objects/demo.yaml"
	pod_object client 10.77.1.2 >"$dir/objects/client.yaml"
	pod_object server 10.77.1.3 >"$dir/objects/server.yaml"
}

# plugin runs one plugin as a container runtime would: config on stdin, result
# on stdout.
plugin() {
	local verb=$1 program=$2 name=$3 ip=$4
	CNI_COMMAND=$verb CNI_CONTAINERID=demo-$name CNI_NETNS=/run/netns/$name CNI_IFNAME=eth0 \
		CNI_PATH=$(dirname "$(command -v host-local)") \
		CNI_ARGS="IgnoreUnknown=1;IP=$ip;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=$name;K8S_POD_UID=demo-$name" "$program"
}

ptp='{"cniVersion": "1.1.0", "name": "pods", "type": "ptp", "ipam": {"type": "host-local",
	"ranges": [[{"subnet": "10.77.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}'

culvert() { echo '{"cniVersion": "1.1.0", "name": "pods", "type": "culvert-cni"'"${1:+, \"prevResult\": $1}"'}'; }

pod() {
	local result
	ip netns add "$1"
	ip -n "$1" link set lo up
	result=$(plugin ADD ptp "$@" <<<"$ptp")
	culvert "$result" | plugin ADD culvert-cni "$@"
}

rm_pod() {
	culvert "" | plugin DEL culvert-cni "$@"
	plugin DEL ptp "$@" <<<"$ptp"
	ip netns del "$1"
}

case "${1:-} $#" in
"files 2") files "$2" ;;
"pod 3") pod "$2" "$3" ;;
"rm 3") rm_pod "$2" "$3" ;;
"-h 1") usage ;;
*)
	usage >&2
	exit 2
	;;
esac
