{{/* Helpers of the parts around the gateway: scaling, network, monitoring, secrets from elsewhere, stores to try out. */}}

{{/* The name of the metrics' job. Rules and dashboards go by names that have "sluice" in them. */}}
{{- define "sluice.around.job" -}}
{{- $name := include "sluice.fullname" . -}}
{{- if contains "sluice" $name }}{{ $name }}{{ else }}{{ $name }}-sluice{{ end -}}
{{- end -}}

{{/* Where the URLs of the configuration lead: a JSON list of {host, port}, each once. One without a host (a file, memory),
on this machine, or with a host or port from the environment, leads nowhere that can be known here. */}}
{{- define "sluice.around.endpoints" -}}
{{- $usual := dict "http" "80" "https" "443" "redis" "6379" "rediss" "6379" "postgresql" "5432" -}}
{{- $found := dict -}}
{{- range regexFindAll `[a-z][a-z0-9+]*://[^"\s]+` (toJson (list (omit .Values.config "listener") .Values.teams)) -1 -}}
{{- $scheme := regexFind `^[a-z0-9]+` . -}}
{{- $place := regexReplaceAll `^.*@` (regexReplaceAll `[/?#].*$` (regexReplaceAll `^[^:]+://` . "") "") "" -}}
{{- $port := regexFind `[0-9]+$` (regexFind `:[0-9]+$` $place) | default (get $usual $scheme) -}}
{{- $host := regexReplaceAll `:[0-9]+$` $place "" | trimAll "[]" -}}
{{- if and $host $port (not (contains "$" $host)) (not (contains "," $host)) (not (regexMatch `^(localhost|127\..*|::1)$` $host)) -}}
{{- $_ := set $found (printf "%s %s" $host $port) (dict "host" $host "port" (int $port)) -}}
{{- end -}}
{{- end -}}
{{- $sorted := list -}}
{{- range $found }}{{ $sorted = append $sorted . }}{{ end -}}
{{- $sorted | toJson -}}
{{- end -}}

{{/* The labels of the pods that serve, and of no others of the release. */}}
{{- define "sluice.around.pods" -}}
{{ include "sluice.selectorLabels" . }}
{{ include "sluice.component" . }}
{{- end -}}

{{/* Routes lead to the Service of the gateway, which a sidecar has not. Takes the root and the name of the values. */}}
{{- define "sluice.around.onlyGateway" -}}
{{- if ne .root.Values.mode "gateway" }}{{ fail (printf "%s needs mode: gateway, as a sidecar serves its own pod alone" .values) }}{{ end -}}
{{- end -}}

{{/* Peers of a NetworkPolicy from names of namespaces, blocks of addresses, and peers as they are: (dict "namespaces" "cidrs" "from"). */}}
{{- define "sluice.around.peers" -}}
{{- range .namespaces }}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . | quote }}
{{- end }}
{{- range .cidrs }}
- ipBlock:
    cidr: {{ . | quote }}
{{- end }}
{{- with .from }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Settings that lead the gateway to the stores that are for trying out; empty where there is none. */}}
{{- define "sluice.tryout.env" -}}
{{- $stores := .Values.config.stores | default dict -}}
{{- if .Values.tryout.redis.enabled -}}
{{- if $stores.counters }}{{ fail "config.stores.counters and tryout.redis both name a store of the counters: leave one out" }}{{ end -}}
- name: SLUICE__STORES__COUNTERS
  value: redis://{{ include "sluice.fullname" . }}-redis:6379/0
{{ end -}}
{{- if .Values.tryout.postgresql.enabled -}}
{{- if $stores.database }}{{ fail "config.stores.database and tryout.postgresql both name a database: leave one out" }}{{ end -}}
- name: SLUICE__STORES__DATABASE
  value: postgresql+psycopg://sluice@{{ include "sluice.fullname" . }}-postgresql:5432/sluice
{{ end -}}
{{- end -}}
