{{- define "kaito-models.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: model
app.kubernetes.io/part-of: sluice
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* The names of the Workspaces of a model, as a JSON list; a name of Kubernetes has no dots. */}}
{{- define "kaito-models.workspaces" -}}
{{- $names := list }}
{{- $name := .name | replace "." "-" }}
{{- range $number := until (int (.model.replicas | default 1)) }}
{{- $names = append $names (printf "%s-%d" $name $number) }}
{{- end }}
{{- $names | toJson }}
{{- end }}

{{/* Under which name its server serves a model: what KAITO makes of the preset, unless another one is given. */}}
{{- define "kaito-models.served" -}}
{{- .servedName | default (.preset | splitList "/" | last | lower) }}
{{- end }}

{{/* Values for charts/sluice: backends, models, and the way to them in its NetworkPolicy. */}}
{{- define "kaito-models.values" -}}
{{- $backends := dict }}
{{- $models := dict }}
{{- $workspaces := list }}
{{- range $name, $model := .Values.models }}
{{- $gateway := $model.gateway | default dict }}
{{- if not (or $model.instanceType $model.nodeLabels) }}
{{- fail (printf "models.%s: name an instanceType, of which KAITO makes nodes, or nodeLabels of nodes of your own" $name) }}
{{- end }}
{{- $targets := list }}
{{- range $workspace := include "kaito-models.workspaces" (dict "name" $name "model" $model) | fromJsonArray }}
{{- if has $workspace $workspaces }}
{{- fail (printf "models: two Workspaces would be named %s" $workspace) }}
{{- end }}
{{- $workspaces = append $workspaces $workspace }}
{{- $url := $.Values.gateway.url | replace "{workspace}" $workspace | replace "{namespace}" $.Release.Namespace | replace "{port}" (toString $.Values.service.port) }}
{{- $backend := merge (dict "dialect" "openai" "url" $url) (deepCopy ($gateway.backend | default dict)) (deepCopy $.Values.gateway.backend) }}
{{- $_ := set $backends (printf "%s%s" $.Values.gateway.prefix $workspace) $backend }}
{{- $targets = append $targets (dict "backend" (printf "%s%s" $.Values.gateway.prefix $workspace) "model" (include "kaito-models.served" $model)) }}
{{- end }}
{{- if dig "publish" true $gateway }}
{{- $_ := set $models $name (merge (dict "targets" (list $targets)) (deepCopy ($gateway.model | default dict)) (dict "modality" "chat" "tokenizer_family" "other")) }}
{{- end }}
{{- end }}
{{- $values := dict "config" (dict "backends" $backends "models" $models) }}
{{- if eq .Values.service.type "ClusterIP" }}
{{- $peer := dict
  "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace))
  "podSelector" (dict "matchExpressions" (list (dict "key" "kaito.sh/workspace" "operator" "In" "values" $workspaces))) }}
{{- $rule := dict "to" (list $peer) "ports" (list (dict "port" 5000 "protocol" "TCP")) }}
{{- $_ := set $values "networkPolicy" (dict "egress" (dict "rules" (dict .Release.Name $rule))) }}
{{- end }}
{{- toYaml $values }}
{{- end }}
