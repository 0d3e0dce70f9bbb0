{{/* What no schema can tell: values that are each fine and together are not. A pod would find out later, or nobody. */}}
{{- define "sluice.checks" -}}
{{- if not .Values.image.repository }}
{{- fail "image.repository: name the image of deploy/docker where you pushed it, such as myregistry.azurecr.io/sluice" }}
{{- end }}
{{- include "sluice.checks.identity" . }}
{{- include "sluice.checks.stores" . }}
{{- include "sluice.checks.secrets" . }}
{{- if eq .Values.mode "sidecar" }}
{{- include "sluice.checks.sidecar" . }}
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
{{- if regexMatch "://[^/@\"\\s:]*:[^@/\"\\s$][^@/\"\\s]*@" $json }}
{{- fail "config: a URL holds a password, and a ConfigMap is no place for one: write ${NAME}, and name its Secret in secrets.env" }}
{{- end }}
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
{{- $secrets := list }}
{{- range concat .Values.secrets.files .Values.secrets.env }}{{ $secrets = append $secrets .existingSecret }}{{ end }}
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
{{- if hasPrefix "sluice-" .name }}
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
{{- $named := list (dig "secret" "secretName" "" .) }}
{{- range dig "projected" "sources" list . }}
{{- $named = append $named (dig "secret" "name" "" .) }}
{{- if .serviceAccountToken }}
{{- fail (printf "sidecar.application: the volume %s holds a token of the pod's account" $volume) }}
{{- end }}
{{- end }}
{{- range $named }}
{{- if has . $secrets }}
{{- fail (printf "sidecar.application: the volume %s holds a Secret of the gateway" $volume) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
