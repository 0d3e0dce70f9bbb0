{{/* Names. */}}
{{- define "sluice.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "sluice.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "sluice.migrations.name" -}}
{{ include "sluice.fullname" . }}-migrations
{{- end }}

{{- define "sluice.migrations.serviceAccountName" -}}
{{- if .Values.migrations.serviceAccount.create }}
{{- default (include "sluice.migrations.name" .) .Values.migrations.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.migrations.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Labels of everything; each object adds its own app.kubernetes.io/component. */}}
{{- define "sluice.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "sluice.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: sluice
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Of the pods that serve. The migrations' and the test's pods carry another component, and Services ask for this one. */}}
{{- define "sluice.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sluice.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sluice.component" -}}
app.kubernetes.io/component: {{ .Values.mode }}
{{- end }}

{{/* A time of `drain` in seconds: a number is one already, and `10m` is how the configuration writes times. */}}
{{- define "sluice.seconds" -}}
{{- if kindIs "string" . -}}
{{ mul (regexFind "[0-9]+" .) (get (dict "s" 1 "m" 60 "h" 3600) (regexFind "[smh]" .)) }}
{{- else -}}
{{ int . }}
{{- end }}
{{- end }}

{{- define "sluice.image" -}}
{{- $image := .image }}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .fallback $image.tag }}
{{- end }}
{{- end }}

{{/* Facts of the values, "true" or empty. */}}
{{- define "sluice.database" -}}
{{- dig "stores" "database" "" .Values.config }}
{{- end }}

{{- define "sluice.hasOwnDatabase" -}}
{{- $database := include "sluice.database" . }}
{{- if and (not .Values.tryout.postgresql.enabled) (or (not $database) (hasPrefix "sqlite" $database)) }}true{{ end }}
{{- end }}

{{- define "sluice.countsInMemory" -}}
{{- if and (not .Values.tryout.redis.enabled) (hasPrefix "memory:" (dig "stores" "counters" "memory://" .Values.config)) }}true{{ end }}
{{- end }}

{{- define "sluice.migrations.by" -}}
{{- if or (include "sluice.hasOwnDatabase" .) .Values.tryout.postgresql.enabled -}}
pods
{{- else -}}
{{ .Values.migrations.by }}
{{- end }}
{{- end }}

{{- define "sluice.tls" -}}
{{- if dig "listener" "tls" "" .Values.config }}true{{ end }}
{{- end }}

{{/* Whether clients must show a certificate, which a kubelet has not. */}}
{{- define "sluice.wantsCertificates" -}}
{{- $asked := dig "listener" "tls" "client_certificates" dict .Values.config }}
{{- if and $asked (dig "required" true $asked) }}true{{ end }}
{{- end }}

{{/* Whether a load balancer sends connections to nodes that have a pod, and to that pod alone. */}}
{{- define "sluice.isBalancedLocally" -}}
{{- if and (eq .Values.mode "gateway") .Values.internalLoadBalancer.enabled (eq .Values.internalLoadBalancer.externalTrafficPolicy "Local") }}true{{ end }}
{{- end }}

{{/* What a change of takes new pods: all of the configuration, but for what docs/reload.md has taken over by a reload. */}}
{{- define "sluice.restartDigest" -}}
{{- $config := omit .Values.config "backends" "models" "routing" "policies" "default_models" "areas" "cache" "timeouts" "identity" }}
{{- $_ := set $config "cache" (pick (dig "cache" dict .Values.config) "size" "key" "semantic") }}
{{- $_ := set $config "timeouts" (omit (dig "timeouts" dict .Values.config) "connect") }}
{{- $_ := set $config "identity" (omit (dig "identity" dict .Values.config) "accept") }}
{{- $config | toJson | sha256sum | trunc 16 }}
{{- end }}

{{/* A quantity of memory in bytes. */}}
{{- define "sluice.bytes" -}}
{{- $powers := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 }}
{{- $unit := regexFind "[A-Za-z]*$" (toString .) }}
{{- if not (hasKey $powers $unit) }}{{ fail (printf "%v is no amount of memory that is known here, such as 512Mi" .) }}{{ end }}
{{- mulf (trimSuffix $unit (toString .) | float64) (get $powers $unit) | int64 }}
{{- end }}

{{/* What Envoy may have before it refuses calls: less than its container, which would be killed with all that it carries. */}}
{{- define "sluice.envoyHeap" -}}
{{- with dig "limits" "memory" "" .Values.envoy.resources }}
{{- mulf (include "sluice.bytes" . | float64) 0.9 | int64 }}
{{- end }}
{{- end }}

{{/* Pod Security "restricted", and more. */}}
{{- define "sluice.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "sluice.containerSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}
