{{/* What no schema can tell: values that are each fine and together are not. A pod would find out later, or nobody. */}}
{{- define "sluice.checks" -}}
{{- if not .Values.image.repository }}
{{- fail "image.repository: name the image of deploy/docker where you pushed it, such as myregistry.azurecr.io/sluice" }}
{{- end }}
{{- if not (or .Values.envoy.image.tag .Values.envoy.image.digest) }}
{{- fail "envoy.image: name a tag or a digest" }}
{{- end }}
{{- range $name, $image := dict "image" .Values.image "envoy.image" .Values.envoy.image }}
{{- if eq (default "" $image.tag) "latest" }}
{{- fail (printf "%s.tag: latest names no version, and what a node has of it may be old: name one, or the digest" $name) }}
{{- end }}
{{- end }}
{{- range $name, $most := dict "notice" 600 "timeout" 86400 }}
{{- if gt (int (include "sluice.seconds" (get $.Values.drain $name))) $most }}
{{- fail (printf "drain.%s: at most %d seconds" $name $most) }}
{{- end }}
{{- end }}
{{- include "sluice.checks.identity" . }}
{{- include "sluice.checks.stores" . }}
{{- include "sluice.checks.secrets" . }}
{{- if eq .Values.mode "sidecar" }}
{{- include "sluice.checks.sidecar" . }}
{{- else }}
{{- include "sluice.checks.gateway" . }}
{{- end }}
{{- end }}

{{- define "sluice.checks.gateway" -}}
{{- if and (include "sluice.isBalancedLocally" .) (lt (int (include "sluice.seconds" .Values.drain.notice)) 20) }}
{{- fail "drain.notice: behind internalLoadBalancer with externalTrafficPolicy: Local at least 20: Azure asks a node every five seconds, twice, before it sends new connections elsewhere" }}
{{- end }}
{{- if and .Values.smoke.existingSecret (not .Values.smoke.url) (include "sluice.wantsCertificates" .) }}
{{- fail "smoke: the listener asks for certificates of clients, and the test has none: name in smoke.url what is in front of it and needs none, or leave smoke.existingSecret empty" }}
{{- end }}
{{- end }}

{{- define "sluice.checks.identity" -}}
{{- if .Values.workloadIdentity.enabled }}
{{- if and .Values.serviceAccount.create (not .Values.workloadIdentity.clientId) }}
{{- fail "workloadIdentity.clientId: name the client id of the managed identity" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.checks.stores" -}}
{{- $stores := .Values.config.stores | default dict }}
{{- range $store, $safe := dict "database" "[?&]sslmode=verify-full" "counters" "^rediss://" "answers" "^rediss://" }}
{{- $url := get $stores $store }}
{{- $credential := get $stores (printf "%s_credential" $store) }}
{{- if and $url $credential (not (hasPrefix "$" $url)) }}
{{- if regexMatch "://[^/@]*:[^/@]*@|[?&]password=" $url }}
{{- fail (printf "config.stores.%s: the URL has a password, and %s_credential names one, too: leave one out" $store $store) }}
{{- end }}
{{- if and (hasKey $credential "entra") (not (regexMatch $safe $url)) }}
{{- fail (printf "config.stores.%s: a token of Entra goes to the right server alone: rediss:// for Redis, sslmode=verify-full for PostgreSQL" $store) }}
{{- end }}
{{- end }}
{{- end }}
{{- $many := or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled }}
{{- if and $many (eq .Values.mode "gateway") }}
{{- if include "sluice.hasOwnDatabase" . }}
{{- fail "config.stores.database: several pods need a PostgreSQL that they share; with SQLite set replicas: 1" }}
{{- end }}
{{- if include "sluice.countsInMemory" . }}
{{- fail "config.stores.counters: several pods need a Redis that they share, else each spends every limit by itself; with memory:// set replicas: 1" }}
{{- end }}
{{- end }}
{{- if eq (include "sluice.migrations.by" .) "job" }}
{{- $late := keys (ternary .Values.externalSecrets.secrets dict .Values.externalSecrets.enabled) (ternary .Values.keyVault.sync dict .Values.keyVault.enabled) }}
{{- range concat .Values.secrets.files .Values.secrets.env .Values.migrations.env }}
{{- if has .existingSecret $late }}
{{- fail (printf "migrations.by: a Job before the installation cannot wait for the Secret %s, which this chart has made: set migrations.by: pods, or make it outside of the chart" .existingSecret) }}
{{- end }}
{{- end }}
{{- $read := list (pick (.Values.config.stores | default dict) "database" "database_credential") .Values.migrations.database }}
{{- if and .Values.keyVault.enabled (contains "/run/secrets/sluice/key-vault/" (toJson $read)) }}
{{- fail "migrations.by: a Job before the installation has no files of keyVault, which come with the pods, and the database needs one: set migrations.by: pods" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.checks.secrets" -}}
{{- $json := list .Values.config .Values.migrations.database | toJson | replace "$${" "" }}
{{- $folders := list }}
{{- range .Values.secrets.files }}
{{- if has .name $folders }}{{ fail (printf "secrets.files: %s is there twice" .name) }}{{ end }}
{{- $folders = append $folders .name }}
{{- end }}
{{- if .Values.keyVault.enabled }}{{ $folders = append $folders "key-vault" }}{{ end }}
{{- range .Values.extraVolumeMounts }}
{{- $folders = append $folders (trimPrefix "/run/secrets/sluice/" .mountPath) }}
{{- end }}
{{- range regexFindAll "/run/secrets/sluice/[^/\"]+/" $json -1 }}
{{- $folder := . | trimPrefix "/run/secrets/sluice/" | trimSuffix "/" }}
{{- if not (has $folder $folders) }}
{{- fail (printf "config names a file in /run/secrets/sluice/%s, and secrets.files has no %s" $folder $folder) }}
{{- end }}
{{- end }}
{{- $variables := list }}
{{- range concat .Values.secrets.env .Values.migrations.env .Values.extraEnv }}{{ $variables = append $variables .name }}{{ end }}
{{- range regexFindAll "\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}|\"env\":\"[A-Za-z_][A-Za-z0-9_]*\"" $json -1 }}
{{- $name := regexReplaceAll "^\\$\\{|^\"env\":\"|[}\"]$" . "" }}
{{- if and (not (has $name $variables)) (not (hasPrefix "AZURE_" $name)) }}
{{- fail (printf "config names the variable %s, and neither secrets.env nor extraEnv has it" $name) }}
{{- end }}
{{- end }}
{{- if include "sluice.holdsPassword" (dict "json" (list .Values.config .Values.teams .Values.migrations.database | toJson | replace "$${" "") "opening" "{") }}
{{- fail "config: a URL holds a password, and a ConfigMap is no place for one: write ${NAME}, and name its Secret in secrets.env" }}
{{- end }}
{{- range .Values.extraEnv }}
{{- $named := and .value (regexMatch "(?i)(password|passwd|secret|token|api_?key)$" .name) (not (hasPrefix "$(" (toString .value))) }}
{{- if or $named (include "sluice.holdsPassword" (dict "json" (toJson .) "opening" "(")) }}
{{- fail (printf "extraEnv: %s holds a secret in plain sight: name the Secret that has it in secrets.env" .name) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether a URL in a JSON text has a password that is not a variable: before its host, or as libpq's parameter. */}}
{{- define "sluice.holdsPassword" -}}
{{- $plain := printf `([^$@/"\s\\&]|\$([^%s]|$))` (regexQuoteMeta .opening) }}
{{- $json := .json | replace `\u0026` "&" }}
{{- if regexMatch (printf `://[^/@"\s:]*:%s[^@/"\s]*@|://[^/@"\s:]*:\$@|[?&](?i:password|sslpassword)=%s` $plain $plain) $json }}true{{ end }}
{{- end }}

{{- define "sluice.checks.sidecar" -}}
{{- $application := .Values.sidecar.application }}
{{- if not $application.containers }}
{{- fail "sidecar.application.containers: mode sidecar needs the application that the pair stands beside" }}
{{- end }}
{{- if .Values.workloadIdentity.enabled }}
{{- fail "workloadIdentity.enabled: in a sidecar the application has the pod's identity, too, so that must not be one that reaches a provider: see docs/sidecar.md" }}
{{- end }}
{{- if regexMatch "\"azure.workload.identity/" (toJson (list .Values.podLabels .Values.podAnnotations .Values.serviceAccount.annotations)) }}
{{- fail "podLabels, podAnnotations, serviceAccount.annotations: in a sidecar the pod may have no identity of Azure: see docs/sidecar.md" }}
{{- end }}
{{- if regexMatch "\"(entra|key_vault)\":" (toJson .Values.config) }}
{{- fail "config: in a sidecar no credential may come from the pod's identity (entra, key_vault), which the application has, too: see docs/sidecar.md" }}
{{- end }}
{{- if .Values.keyVault.enabled }}
{{- fail "keyVault.enabled: the driver signs in with the pod's identity, which in a sidecar the application has, too: see docs/sidecar.md" }}
{{- end }}
{{- $secrets := list }}
{{- range concat .Values.secrets.files .Values.secrets.env }}{{ $secrets = append $secrets .existingSecret }}{{ end }}
{{- range .Values.extraEnv }}{{ $secrets = append $secrets (dig "valueFrom" "secretKeyRef" "name" "" .) }}{{ end }}
{{- $volumes := list }}
{{- $classes := list }}
{{- range .Values.extraVolumes }}
{{- $volumes = append $volumes .name }}
{{- $secrets = concat $secrets (include "sluice.secretsOfVolume" . | fromJsonArray) }}
{{- $classes = append $classes (dig "csi" "volumeAttributes" "secretProviderClass" "" .) }}
{{- end }}
{{- $secrets = compact $secrets }}
{{- $classes = compact $classes }}
{{- range concat $application.containers $application.initContainers }}
{{- $container := .name }}
{{- if has $container (list "sluice" "envoy") }}
{{- fail (printf "sidecar.application: the name %s is a container's of the gateway" $container) }}
{{- end }}
{{- range .ports }}
{{- if or (eq (int .containerPort) 8080) (eq (int .containerPort) 9464) (eq (.name | default "") "metrics") }}
{{- fail (printf "sidecar.application: %s has a port of the gateway (8080, 9464, or the name metrics)" $container) }}
{{- end }}
{{- end }}
{{- range .volumeMounts }}
{{- if or (hasPrefix "sluice-" .name) (has .name $volumes) }}
{{- fail (printf "sidecar.application: %s mounts %s, which is the gateway's" $container .name) }}
{{- end }}
{{- end }}
{{- range .env }}
{{- if has (dig "valueFrom" "secretKeyRef" "name" "" .) $secrets }}
{{- fail (printf "sidecar.application: %s takes a variable from a Secret of the gateway" $container) }}
{{- end }}
{{- end }}
{{- range .envFrom }}
{{- if has (dig "secretRef" "name" "" .) $secrets }}
{{- fail (printf "sidecar.application: %s takes variables from a Secret of the gateway" $container) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $application.volumes }}
{{- if hasPrefix "sluice-" .name }}
{{- fail (printf "sidecar.application: the volume %s has a name of the gateway's" .name) }}
{{- end }}
{{- $volume := .name }}
{{- range dig "projected" "sources" list . }}
{{- if .serviceAccountToken }}
{{- fail (printf "sidecar.application: the volume %s holds a token of the pod's account" $volume) }}
{{- end }}
{{- end }}
{{- range include "sluice.secretsOfVolume" . | fromJsonArray }}
{{- if has . $secrets }}
{{- fail (printf "sidecar.application: the volume %s holds a Secret of the gateway" $volume) }}
{{- end }}
{{- end }}
{{- if has (dig "csi" "volumeAttributes" "secretProviderClass" "" .) $classes }}
{{- fail (printf "sidecar.application: the volume %s holds secrets of the gateway" $volume) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The names of the Secrets that a volume shows: a JSON list. */}}
{{- define "sluice.secretsOfVolume" -}}
{{- $named := list (dig "secret" "secretName" "" .) (dig "csi" "nodePublishSecretRef" "name" "" .) }}
{{- range dig "projected" "sources" list . }}
{{- $named = append $named (dig "secret" "name" "" .) }}
{{- end }}
{{- compact $named | toJson }}
{{- end }}
