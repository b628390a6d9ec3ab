// SPDX-License-Identifier: Apache-2.0

package lint

import "github.com/culvert-mesh/culvert/ztunnel/source"

// sort is what all findings of a code have in common.
type sort struct {
	code     source.Code
	severity Severity
	hint     string
}

// What lint judges itself, beside what the source says.
const (
	unreadable       source.Code = "unreadable"
	notUnderstood    source.Code = "object-not-understood"
	passedOver       source.Code = "field-passed-over"
	notEnforced      source.Code = "not-enforced"
	meshLabel        source.Code = "mesh-label"
	twice            source.Code = "twice"
	duplicate        source.Code = "duplicate"
	shadowed         source.Code = "shadowed"
	meshWide         source.Code = "mesh-wide"
	selectorIgnored  source.Code = "selector-ignored"
	selectsNobody    source.Code = "selects-nobody"
	notInMesh        source.Code = "not-in-mesh"
	servicePort      source.Code = "service-port"
	portNotDeclared  source.Code = "port-not-declared"
	strictShutsOut   source.Code = "strict-shuts-out"
	dryRun           source.Code = "dry-run"
	closed           source.Code = "closed"
	allowsNobody     source.Code = "allows-nobody"
	deniesNobody     source.Code = "denies-nobody"
	deniesEverybody  source.Code = "denies-everybody"
	neverMatches     source.Code = "never-matches"
	letsPlaintextIn  source.Code = "lets-plaintext-in"
	otherTrustDomain source.Code = "other-trust-domain"
	noSuchNamespace  source.Code = "no-such-namespace"
	noSuchAccount    source.Code = "no-such-account"
	hostBits         source.Code = "host-bits"
	letsIn           source.Code = "lets-in"
)

// codes are all that there are, in the order of docs/lint.md.
var codes = []sort{
	{unreadable, Error, "Nothing of it is taken: correct the text."},
	{source.BadField, Error, "The object keeps its former meaning, or refuses whom it may select: correct the field."},
	{source.UnknownField, Error, "Correct the name of the field; an API server may have dropped it in silence."},
	{source.EmptyList, Error, "Write the values, or leave the field out. A template without values leaves an empty list."},
	{source.BadPort, Error, "Write a number from 1 to 65535, as 8080: no name and no leading zero."},
	{source.BadAddress, Error, "Write an address or a CIDR, as 10.0.0.0/8."},
	{source.BadName, Error, "Names are lower case letters, digits, dots and dashes; a ServiceAccount is NAME or NAMESPACE/NAME."},
	{source.SpiffeScheme, Error, "Leave spiffe:// out: cluster.local/ns/NAMESPACE/sa/NAME."},
	{source.StarInside, Error, "Put the * at the beginning or at the end, or write the names one by one."},
	{source.UnknownKey, Error, "Use source.ip, source.namespace, source.principal, destination.ip or destination.port."},
	{source.DryRunValue, Error, "Write \"true\" or \"false\". As it stands the policy is enforced, and less is let in."},
	{source.PortsOfNobody, Error, "Add spec.selector.matchLabels: modes of ports are for workloads."},
	{source.Layer7, Warning, "Nobody looks into requests here: say it with principals, namespaces, ipBlocks and ports."},
	{source.RemoteIP, Warning, "Use ipBlocks: the address of whoever opened the connection."},
	{source.TargetRefs, Warning, "Select pods by spec.selector, unless a waypoint enforces it."},
	{source.NoEffect, Warning, "Use ALLOW or DENY; istio.io/dry-run: \"true\" tries a policy out."},
	{dryRun, Info, "Take the annotation istio.io/dry-run away to have it enforced."},

	{twice, Error, "Delete one of the two: neither is taken while there are both."},
	{meshLabel, Error, "Write culvert.dev/mesh: enabled, or disabled."},
	{notUnderstood, Warning, "Correct it, if ztunnel reads this directory. What hangs on it is not looked at."},
	{passedOver, Info, "Correct the name of the field, if it is misspelt."},
	{notEnforced, Info, "Say it by a PeerAuthentication or an AuthorizationPolicy, if the mesh is to enforce it."},

	{selectorIgnored, Error, "Move it into the namespace of its pods, or leave the selector out for the whole mesh."},
	{shadowed, Error, "Delete it, or the older one: of one scope the oldest counts alone, then the first by name."},
	{selectsNobody, Warning, "Compare the labels with those of the pods: kubectl get pods --show-labels."},
	{notInMesh, Warning, "Label the namespace or the pods culvert.dev/mesh: enabled."},
	{meshWide, Info, "Move it into a namespace, unless it is meant for the whole mesh."},
	{duplicate, Warning, "Delete one of the two."},
	{strictShutsOut, Info, "Bring them into the mesh first, or leave the ports that they use PERMISSIVE."},

	{servicePort, Warning, "Write the port of the pod, which the Service calls targetPort."},
	{portNotDeclared, Info, "Compare it with the ports of the pods' containers."},

	{deniesNobody, Error, "Write rules; for everybody rules: [{}]."},
	{neverMatches, Error, "A value that is in a list and in its not list at once matches nobody: delete it from one."},
	{allowsNobody, Error, "Correct the rules; to let nobody in on purpose, write spec: {}."},
	{deniesEverybody, Warning, "Say whom it denies, by what is known at layer 4."},
	{closed, Info, "Other ALLOW policies of the same pods still let in."},
	{letsPlaintextIn, Warning, "Add principals: [\"*\"] to the source, or a PeerAuthentication STRICT."},

	{otherTrustDomain, Warning, "Write the trust domain of this mesh (--trust-domain says which it is), or one that its CA is federated with (--federated)."},
	{noSuchNamespace, Warning, "Correct the name, or create the namespace."},
	{noSuchAccount, Warning, "Correct the name, or create the ServiceAccount."},
	{hostBits, Warning, "Write the CIDR without host bits, or the address alone."},

	{letsIn, Info, "If it was meant to close the pods, replace it by spec: {} before you upgrade."},
}
