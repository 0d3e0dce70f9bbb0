{{/* The configuration, as one text. */}}
{{- define "sluice.gatewayYaml" -}}
{{- toYaml .Values.config }}
{{- end }}

{{/* What the chart sets over the configuration: where things are in its pods, and how long they may take. */}}
{{- define "sluice.settings" -}}
- {name: SLUICE__STATE_DIR, value: /run/sluice}
- {name: SLUICE__TEAMS, value: /etc/sluice-teams}
- {name: SLUICE__LISTENER__ADDRESS, value: {{ ternary "127.0.0.1" "0.0.0.0" (eq .Values.mode "sidecar") }}}
- {name: SLUICE__LISTENER__PORT, value: "8080"}
- {name: SLUICE__METRICS__ADDRESS, value: 0.0.0.0}
- {name: SLUICE__METRICS__PORT, value: "9464"}
{{- if eq .Values.mode "gateway" }}
- {name: SLUICE__TIMEOUTS__NOTICE, value: {{ include "sluice.seconds" .Values.drain.notice }}s}
{{- end }}
- {name: SLUICE__TIMEOUTS__DRAIN, value: {{ include "sluice.seconds" .Values.drain.timeout }}s}
{{- if not (dig "limits" "envoy_heap" "" .Values.config) }}
{{- with include "sluice.envoyHeap" . }}
- {name: SLUICE__LIMITS__ENVOY_HEAP, value: {{ . | quote }}}
{{- end }}
{{- end }}
- {name: SLUICE__STORES__MIGRATE, value: {{ ternary "true" "false" (eq (include "sluice.migrations.by" .) "pods") | quote }}}
{{- with include "sluice.tryout.env" . }}
{{ trim . }}
{{- end }}
{{- if and (include "sluice.hasOwnDatabase" .) (not (include "sluice.database" .)) }}
- {name: SLUICE__STORES__DATABASE, value: "sqlite:////run/sluice/sluice.db"}
{{- end }}
{{- end }}

{{/* Variables from Secrets: a list of {name, existingSecret, key}. */}}
{{- define "sluice.secretEnv" -}}
{{- range . }}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .key }}}}
{{- end }}
{{- end }}

{{/* Mounts and volumes of Secrets: a list of {name, existingSecret}. */}}
{{- define "sluice.secretMounts" -}}
{{- range . }}
- {name: sluice-secret-{{ .name }}, mountPath: /run/secrets/sluice/{{ .name }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "sluice.secretVolumes" -}}
{{- range . }}
- name: sluice-secret-{{ .name }}
  secret: {secretName: {{ .existingSecret }}, defaultMode: 288} # 0440
{{- end }}
{{- end }}

{{/* The policy workers: a native sidecar in both modes, so that Envoy starts when its files are written. */}}
{{- define "sluice.policyContainer" -}}
name: sluice
image: {{ include "sluice.image" (dict "image" .Values.image "fallback" .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
restartPolicy: Always
command: [/opt/sluice/bin/sluice]
args: [serve, --config, /etc/sluice/gateway.yaml]
env:
  {{- include "sluice.settings" . | nindent 2 }}
  - {name: HOME, value: /tmp}
  {{- with include "sluice.secretEnv" .Values.secrets.env | trim }}{{ . | nindent 2 }}{{ end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: metrics, containerPort: 9464, protocol: TCP}
# The first start compiles the policies and may wait for the database.
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 120
  terminationGracePeriodSeconds: 20
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
  # Of one that hangs, in place of the pod's: its hook comes first, and would wait for calls that nobody answers.
  terminationGracePeriodSeconds: 20
{{- if eq .Values.mode "gateway" }}
lifecycle:
  preStop:
    exec:
      command: [/opt/sluice/bin/sluice, drain, --config, /etc/sluice/gateway.yaml]
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- include "sluice.containerSecurityContext" . | nindent 2 }}
volumeMounts:
  - {name: sluice-config, mountPath: /etc/sluice, readOnly: true}
  - {name: sluice-teams, mountPath: /etc/sluice-teams, readOnly: true}
  - {name: sluice-run, mountPath: /run/sluice}
  - {name: sluice-spool, mountPath: /run/sluice/spool}
  - {name: sluice-tokens, mountPath: /run/sluice/tokens}
  - {name: sluice-tmp, mountPath: /tmp}
  {{- with include "sluice.secretMounts" .Values.secrets.files | trim }}{{ . | nindent 2 }}{{ end }}
  {{- if .Values.keyVault.enabled }}
  - {name: sluice-key-vault, mountPath: /run/secrets/sluice/key-vault, readOnly: true}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Envoy: the flags of `sluice up`. Its files and its sockets are in the shared folder. */}}
{{- define "sluice.envoyContainer" -}}
{{- $tls := include "sluice.tls" . }}
name: envoy
image: {{ include "sluice.image" (dict "image" .Values.envoy.image "fallback" "") }}
imagePullPolicy: {{ .Values.envoy.image.pullPolicy }}
command: [/usr/local/bin/envoy]
args:
  - -c
  - /run/sluice/envoy/bootstrap.yaml
  - -l
  - {{ .Values.envoy.logLevel }}
  - --component-log-level
  - http:error,ext_proc:error,main:error # the first two may tell headers
  - --concurrency
  - {{ .Values.envoy.concurrency | quote }}
  - --file-flush-interval-msec
  - "1000"
  - --disable-hot-restart
  {{- range .Values.envoy.extraArgs }}
  - {{ . | quote }}
  {{- end }}
{{- if eq .Values.mode "gateway" }}
ports:
  - {name: http, containerPort: 8080, protocol: TCP}
{{- end }}
{{- if eq .Values.mode "sidecar" }}
{{- /* On the loopback, where no kubelet reaches it. */}}
startupProbe:
  exec: {command: {{ include "sluice.loopbackProbe" . }}}
  periodSeconds: 1
  timeoutSeconds: 3
  failureThreshold: 60
  terminationGracePeriodSeconds: 20
livenessProbe:
  exec: {command: {{ include "sluice.loopbackProbe" . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
  terminationGracePeriodSeconds: 20
{{- else if include "sluice.wantsCertificates" . }}
{{- /* No kubelet has a certificate to show. */}}
startupProbe:
  tcpSocket: {port: http}
  periodSeconds: 1
  failureThreshold: 60
  terminationGracePeriodSeconds: 20
readinessProbe:
  tcpSocket: {port: http}
  periodSeconds: 2
  failureThreshold: {{ include "sluice.readinessFailures" . }}
livenessProbe:
  tcpSocket: {port: http}
  periodSeconds: 10
  failureThreshold: 6
  terminationGracePeriodSeconds: 20
{{- else }}
startupProbe:
  httpGet: {path: /readyz, port: http, scheme: {{ ternary "HTTPS" "HTTP" (not (empty $tls)) }}}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 60
  terminationGracePeriodSeconds: 20
readinessProbe:
  httpGet: {path: /readyz, port: http, scheme: {{ ternary "HTTPS" "HTTP" (not (empty $tls)) }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ include "sluice.readinessFailures" . }}
livenessProbe:
  httpGet: {path: /healthz, port: http, scheme: {{ ternary "HTTPS" "HTTP" (not (empty $tls)) }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
  terminationGracePeriodSeconds: 20
{{- end }}
{{- if eq .Values.mode "gateway" }}
lifecycle:
  preStop:
    exec:
      command: {{ include "sluice.envoyPreStop" . }}
{{- end }}
resources:
  {{- toYaml .Values.envoy.resources | nindent 2 }}
securityContext:
  {{- include "sluice.containerSecurityContext" . | nindent 2 }}
volumeMounts:
  - {name: sluice-run, mountPath: /run/sluice}
{{- end }}

{{/* How often readiness, which is asked for every two seconds, may fail. A node of which a load balancer asks for pods of
its own (Local) has no other to send a connection to: until it is passed over, a pod that drains must stay in use there. */}}
{{- define "sluice.readinessFailures" -}}
{{- if include "sluice.isBalancedLocally" . }}{{ div (min (include "sluice.seconds" .Values.drain.notice) 30) 2 }}{{ else }}2{{ end }}
{{- end }}

{{/* Envoy goes on until the drain of the policy container is over; should that have died, no longer than it may take. */}}
{{- define "sluice.envoyPreStop" -}}
{{- $longest := add (include "sluice.seconds" .Values.drain.notice) (include "sluice.seconds" .Values.drain.timeout) 30 }}
{{- $wait := printf "i=0; until [ -e /run/sluice/run/drained ] || [ $i -ge %d ]; do i=$((i+1)); sleep 1; done" $longest }}
{{- .Values.envoy.preStop | default (list "/bin/sh" "-c" $wait) | toJson }}
{{- end }}

{{- define "sluice.loopbackProbe" -}}
{{- $ask := "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET /readyz HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\n\\r\\n' >&3; read -r _ status _ <&3; [ \"$status\" = 200 ]" }}
{{- .Values.envoy.probe | default (list "/bin/bash" "-c" $ask) | toJson }}
{{- end }}

{{/* The volumes of the pair. */}}
{{- define "sluice.volumes" -}}
# Whole, so that a team that comes or goes changes no pod.
- name: sluice-config
  configMap: {name: {{ include "sluice.fullname" . }}-config, defaultMode: 292} # 0444
- name: sluice-teams
  configMap: {name: {{ include "sluice.fullname" . }}-teams, defaultMode: 292} # 0444
# Sockets, Envoy's files and the providers' credentials for it: in memory, never on a disk; but where the database is a file.
- name: sluice-run
  {{- if include "sluice.hasOwnDatabase" . }}
  emptyDir: {sizeLimit: 1Gi}
  {{- else }}
  emptyDir: {medium: Memory, sizeLimit: 128Mi}
  {{- end }}
- name: sluice-spool
  {{- if eq .Values.spool.kind "ephemeral" }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .Values.spool.storageClassName }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: {{ .Values.spool.size }}}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.spool.size }}}
  {{- end }}
# Tokens for the stores, which Envoy has no use for.
- name: sluice-tokens
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: sluice-tmp
  emptyDir: {sizeLimit: 64Mi}
{{- include "sluice.secretVolumes" .Values.secrets.files }}
{{- if .Values.keyVault.enabled }}
- name: sluice-key-vault
  csi:
    driver: secrets-store.csi.k8s.io
    readOnly: true
    volumeAttributes: {secretProviderClass: {{ include "sluice.fullname" . }}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
