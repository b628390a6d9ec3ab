{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- /* What Kubernetes recommends, for the object of a program: (list . "ztunnel"). */ -}}
{{- define "culvert.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/part-of: culvert
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end }}

{{- /* Labels of pods: only what selects them, as any change of these would start all pods
anew, and the connections of a node break with its ztunnel. */ -}}
{{- define "culvert.podLabels" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: culvert
{{- end }}

{{- /* The image of a program: (list . "ztunnel"). */ -}}
{{- define "culvert.image" -}}
{{- $root := index . 0 -}}
image: {{ $root.Values.image.repository }}/{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{- end }}

{{- /* What differs between platforms: generic's, then the platform's own, then the values
that are not empty. */ -}}
{{- define "culvert.platform" -}}
{{- $all := .Files.Get "platforms/generic.yaml" | fromYaml -}}
{{- $all = mergeOverwrite $all (.Files.Get (printf "platforms/%s.yaml" .Values.platform) | fromYaml) -}}
{{- range $part, $keys := dict "cni" (list "confDir" "binDir") "ztunnel" (list "cgroup" "kubeletCgroup") -}}
{{- range $key := $keys -}}
{{- with index $.Values $part $key -}}
{{- $_ := set (index $all $part) $key . -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.seLinuxType -}}
{{- $_ := set $all "seLinuxType" . -}}
{{- end -}}
{{- $all | toYaml -}}
{{- end }}

{{- /* Nine tenths of a memory limit, as GOMEMLIMIT has it: beyond that the container would
be killed before Go's collector tries hard. */ -}}
{{- define "culvert.goMemLimit" -}}
{{- $mebi := regexFind "^[0-9]+" . | int -}}
{{- if hasSuffix "Gi" . -}}
{{- $mebi = mul $mebi 1024 -}}
{{- end -}}
{{- div (mul $mebi 9) 10 -}}MiB
{{- end }}

{{- /* How long ztunnel may be away until the CA taints its Node: for ever while all ztunnels
are taken off. */ -}}
{{- define "culvert.taintAfter" -}}
{{- if not .Values.uninstall -}}
{{- .Values.ztunnel.taintAfter -}}
{{- end -}}
{{- end }}

{{- /* For an expression of a policy: all of a Node but its taints is as it was, of what its
spec and metadata let anybody change. */ -}}
{{- define "culvert.nodeIsKept" -}}
object.metadata.?labels.orValue({}) == oldObject.metadata.?labels.orValue({}) &&
object.metadata.?annotations.orValue({}) == oldObject.metadata.?annotations.orValue({}) &&
object.metadata.?finalizers.orValue([]) == oldObject.metadata.?finalizers.orValue([]) &&
object.metadata.?ownerReferences.orValue([]) == oldObject.metadata.?ownerReferences.orValue([]) &&
object.spec.?unschedulable.orValue(false) == oldObject.spec.?unschedulable.orValue(false) &&
object.spec.?providerID.orValue("") == oldObject.spec.?providerID.orValue("") &&
object.spec.?podCIDRs.orValue([]) == oldObject.spec.?podCIDRs.orValue([])
{{- end }}

{{- /* The Secret of a CA that is its operator's, or "". */ -}}
{{- define "culvert.existingCA" -}}
{{- $identity := .Values.identity -}}
{{- $pem := compact (list $identity.pem.root $identity.pem.issuer $identity.pem.issuerKey) -}}
{{- $ways := len (compact (list $identity.existingSecret (join "" $pem) $identity.certManager.issuer)) -}}
{{- if gt $ways 1 -}}
{{- fail "identity: existingSecret, pem and certManager.issuer are three ways to give one CA: set one of them" -}}
{{- end -}}
{{- if and $pem (lt (len $pem) 3) -}}
{{- fail "identity.pem: root, issuer and issuerKey belong together: set all of them" -}}
{{- end -}}
{{- if $identity.existingSecret -}}
{{- $identity.existingSecret -}}
{{- else if $ways -}}
culvert-own-ca
{{- end -}}
{{- end }}

{{- /* "true" if certificates come from SPIRE, or "". */ -}}
{{- define "culvert.spire" -}}
{{- $spire := .Values.ztunnel.spire -}}
{{- $sockets := compact (list $spire.agentSocket $spire.adminSocket) -}}
{{- if eq (len $sockets) 1 -}}
{{- fail "ztunnel.spire: agentSocket and adminSocket belong together: set both of them" -}}
{{- end -}}
{{- if and $sockets (eq (dir $spire.agentSocket) (dir $spire.adminSocket)) -}}
{{- fail "ztunnel.spire: agentSocket and adminSocket are in one directory: pods that get the one to see would see the other" -}}
{{- end -}}
{{- if $sockets -}}
true
{{- end -}}
{{- end }}
