{{- define "ferry.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "ferry.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ferry.labels" -}}
{{ include "ferry.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "ferry.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}
{{- else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* The namespace's policy may be `restricted`: this is what it asks of each container. */}}
{{- define "ferry.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* A value that is null stands for none: OpenShift gives each namespace user and group ids of its own. */}}
{{- define "ferry.podSecurity" -}}
runAsNonRoot: true
{{- range $name, $value := .Values.podSecurityContext }}
{{- if not (kindIs "invalid" $value) }}
{{ $name }}: {{ toYaml $value | nindent 2 | trim }}
{{- end }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ferry.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "ferry.fullname" .) }}
{{- else }}{{ .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "ferry.caConfigMap" -}}
{{- if .Values.caBundle.existingConfigMap }}{{ .Values.caBundle.existingConfigMap }}
{{- else if .Values.caBundle.pem }}{{ include "ferry.fullname" . }}-ca{{ end }}
{{- end }}

{{- /* Whether Ferry gets the address of the chart's own Valkey, with its password, from a Secret of the chart's. */}}
{{- define "ferry.ownBroker" -}}
{{- if and .Values.valkey.enabled (not .Values.secrets.CFP_REDIS_URL) }}yes{{ end }}
{{- end }}

{{- define "ferry.sshSecret" -}}
{{- if .Values.ssh.existingSecret }}{{ .Values.ssh.existingSecret }}
{{- else if or .Values.ssh.privateKey .Values.ssh.knownHosts }}{{ include "ferry.fullname" . }}-ssh{{ end }}
{{- end }}

{{- define "ferry.httpsSecret" -}}
{{- if .Values.httpsToken.existingSecret }}{{ .Values.httpsToken.existingSecret }}
{{- else if .Values.httpsToken.token }}{{ include "ferry.fullname" . }}-https{{ end }}
{{- end }}

{{- /* Seconds a push may take and some for what follows it: a push that runs when the pod is ended completes.
A function of an extension, and the ten seconds of a turn. And no fewer than the API has for the requests that it handles: its pause,
gunicorn's 30 s, and some. */}}
{{- define "ferry.gracePeriod" -}}
{{- max 40 (add (ceil (.Values.settings.CFP_PUSH_TIMEOUT | default "120" | float64)) 30)
  (add (ceil (.Values.settings.CFP_API_HOOK_TIMEOUT | default "30" | float64)) 10) }}
{{- end }}

{{- /* The secrets that each role works with. It is given these and no others. */}}
{{- define "ferry.secretsOf" -}}
init: [CFP_DATA_REMOTE, CFP_DATA_MIRRORS, CFP_REDIS_URL, CFP_BROKER_URL]
api: [CFP_DATA_REMOTE, CFP_DATA_MIRRORS, CFP_REDIS_URL, CFP_BROKER_URL, SENTRY_DSN, SENTRY_AUTH_TOKEN,
  CFP_API_TOKENS, CFP_ADMIN_TOKEN, CFP_DATA_RELOAD_SECRET, CFP_WEBHOOKS, CFP_WEBHOOKS_SECRET]
worker: [CFP_DATA_REMOTE, CFP_DATA_MIRRORS, CFP_REDIS_URL, CFP_BROKER_URL, SENTRY_DSN,
  SENTRY_AUTH_TOKEN, CFP_WEBHOOKS, CFP_WEBHOOKS_SECRET]
beat: [CFP_REDIS_URL, CFP_BROKER_URL]
replica: [CFP_DATA_REMOTE, SENTRY_DSN, SENTRY_AUTH_TOKEN, CFP_API_TOKENS, CFP_ADMIN_TOKEN, CFP_DATA_RELOAD_SECRET]
flower: [CFP_REDIS_URL, CFP_BROKER_URL, FLOWER_BASIC_AUTH]
{{- end }}

{{- /* Those of `secrets` that a role works with, as JSON; called with a dict of root and role. */}}
{{- define "ferry.ownSecrets" -}}
{{- $own := dict }}
{{- range index (include "ferry.secretsOf" .root | fromYaml) .role }}
{{- if hasKey $.root.Values.secrets . }}{{ $_ := set $own . (get $.root.Values.secrets .) }}{{ end }}
{{- end }}
{{- toJson $own }}
{{- end }}

{{- /* What every container of Ferry's has; called with a dict of root, role, volume (`write` or `read`: how it has
the repository; `history`: Flower's own directory beside it), remotes (whether it talks to them), and env (further variables, if any). */}}
{{- define "ferry.container" -}}
{{- $values := .root.Values }}
{{- $fullname := include "ferry.fullname" .root -}}
name: {{ .role }}
image: {{ include "ferry.image" .root }}
imagePullPolicy: {{ $values.image.pullPolicy }}
securityContext: {{- include "ferry.containerSecurity" .root | nindent 2 }}
envFrom:
  - configMapRef: {name: {{ $fullname }}}
  {{- if and (include "ferry.ownBroker" .root) (ne .role "replica") }}
  - secretRef: {name: {{ $fullname }}-broker}
  {{- end }}
  {{- if include "ferry.ownSecrets" . | fromJson }}
  - secretRef: {name: {{ $fullname }}-{{ .role }}}
  {{- end }}
  {{- if and .remotes $values.extraEnvFrom }}
  {{- toYaml $values.extraEnvFrom | nindent 2 }}
  {{- end }}
{{- with include "ferry.env" . }}
env: {{- trim . | nindent 2 }}
{{- end }}
volumeMounts:
  {{- if eq .volume "history" }}
  - {name: data, mountPath: /var/lib/flower, subPath: flower}
  {{- else }}
  - {name: data, mountPath: /srv/ferry, readOnly: {{ eq .volume "read" }}}
  {{- end }}
  - {name: tmp-{{ .role }}, mountPath: /tmp}
  {{- if and .remotes (include "ferry.sshSecret" .root) }}
  - {name: ssh, mountPath: /etc/ferry/ssh, readOnly: true}
  {{- end }}
  {{- if and .remotes (include "ferry.httpsSecret" .root) }}
  - {name: https, mountPath: /etc/ferry/https, readOnly: true}
  {{- end }}
  {{- if include "ferry.caConfigMap" .root }}
  - {name: ca, mountPath: /etc/ferry/ca, readOnly: true}
  {{- end }}
  {{- if and .remotes $values.extraVolumeMounts }}
  {{- toYaml $values.extraVolumeMounts | nindent 2 }}
  {{- end }}
{{- end }}

{{- /* The volumes of what a remote is reached with, and a user's own. */}}
{{- define "ferry.files" -}}
{{- with include "ferry.sshSecret" . }}
- name: ssh
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: {{ $.Values.ssh.secretKeys.privateKey }}, path: id}
      - {key: {{ $.Values.ssh.secretKeys.knownHosts }}, path: known_hosts}
{{- end }}
{{- with include "ferry.httpsSecret" . }}
- name: https
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: {{ $.Values.httpsToken.secretKey }}, path: token}
{{- end }}
{{- with include "ferry.caConfigMap" . }}
- name: ca
  configMap:
    name: {{ . }}
    items:
      - {key: {{ $.Values.caBundle.key }}, path: ca.crt}
{{- end }}
{{- with .Values.extraVolumes }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{- /* The variables of one container; where a name comes by envFrom too, these count. */}}
{{- define "ferry.env" -}}
{{- if and .remotes (include "ferry.sshSecret" .root) }}
- {name: CFP_SSH_KEY_PATH, value: /etc/ferry/ssh/id}
- {name: CFP_SSH_KNOWN_HOSTS, value: /etc/ferry/ssh/known_hosts}
{{- end }}
{{- if and .remotes (include "ferry.httpsSecret" .root) }}
- {name: CFP_HTTPS_TOKEN_PATH, value: /etc/ferry/https/token}
{{- end }}
{{- with .env }}
{{ toYaml . }}
{{- end }}
{{- if and .remotes .root.Values.extraEnv }}
{{ toYaml .root.Values.extraEnv }}
{{- end }}
{{- if .root.Values.existingSecret }}
{{- range index (include "ferry.secretsOf" .root | fromYaml) .role }}
{{- /* Flower does not start without a user. */}}
{{- $optional := or (ne . "FLOWER_BASIC_AUTH") (hasKey $.root.Values.secrets .) }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.root.Values.existingSecret }}, key: {{ . }}, optional: {{ $optional }}}}
{{- end }}
{{- end }}
{{- end }}

{{- /* What would come up and not work is refused here, with the remedy. */}}
{{- define "ferry.check" -}}
{{- $s := .Values.secrets }}
{{- if not (or $s.CFP_DATA_REMOTE .Values.existingSecret .Values.persistence.existingClaim) }}
{{- fail "no remote to fetch the repository from: set secrets.CFP_DATA_REMOTE, an existingSecret that holds it, or persistence.existingClaim with a repository on it" }}
{{- end }}
{{- if not (or .Values.valkey.enabled $s.CFP_REDIS_URL .Values.existingSecret) }}
{{- fail "no broker: set valkey.enabled, secrets.CFP_REDIS_URL, or an existingSecret that holds it" }}
{{- end }}
{{- if and .Values.flower.enabled (not $s.FLOWER_BASIC_AUTH) (not .Values.existingSecret) }}
{{- fail "secrets.FLOWER_BASIC_AUTH: required, USER:PASSWORD of the dashboard, in an existingSecret or here; or set flower.enabled to false" }}
{{- end }}
{{- if and .Values.ssh.privateKey (not .Values.ssh.knownHosts) (not .Values.ssh.existingSecret) }}
{{- fail "ssh.knownHosts: required with ssh.privateKey; what `ssh-keyscan HOST` prints, compared with what the host publishes" }}
{{- end }}
{{- if and .Values.ssh.knownHosts (not .Values.ssh.privateKey) (not .Values.ssh.existingSecret) }}
{{- fail "ssh.privateKey: required with ssh.knownHosts" }}
{{- end }}
{{- if and .Values.ssh.existingSecret (or .Values.ssh.privateKey .Values.ssh.knownHosts) }}
{{- fail "ssh.existingSecret and ssh.privateKey or ssh.knownHosts: set the Secret that is there, or what to make one of" }}
{{- end }}
{{- if and .Values.httpsToken.existingSecret .Values.httpsToken.token }}
{{- fail "httpsToken.existingSecret and httpsToken.token: set one of them" }}
{{- end }}
{{- if .Values.networkPolicy.enabled }}
{{- $open := list }}
{{- range .Values.networkPolicy.egressPorts }}{{ $open = append $open (toString (int .)) }}{{ end }}
{{- range $name, $default := dict "CFP_DATA_REMOTE" "" "CFP_REDIS_URL" "6379" "CFP_BROKER_URL" "" "OTEL_EXPORTER_OTLP_ENDPOINT" "" }}
{{- $part := ternary "settings" "secrets" (hasPrefix "OTEL_" $name) }}
{{- $url := get (get $.Values $part) $name | default "" }}
{{- $host := "" }}
{{- if contains "://" $url }}{{ $host = (urlParse $url).host }}{{ end }}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" | default (ternary $default "" (ne $host "")) }}
{{- /* The Valkey of another release in this namespace is let through by its labels. */}}
{{- if and $port (not (has $port $open)) (not (regexMatch "-valkey(:[0-9]+)?$" $host)) }}
{{- fail (printf "networkPolicy.egressPorts: lacks %s, the port of %s.%s" $port $part $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $url := .Values.proxy }}
{{- if contains "@" $url }}
{{- fail (printf "proxy.%s: holds a password, which is for a Secret: give it by extraEnvFrom instead" $name) }}
{{- end }}
{{- end }}
{{- if and .Values.test.write.enabled (not (and .Values.test.write.sheet .Values.test.write.record .Values.test.write.existingSecret)) }}
{{- fail "test.write: needs sheet, record (to be created and deleted) and existingSecret (with the token of a writer)" }}
{{- end }}
{{- if and .Values.replicas.enabled (not $s.CFP_DATA_REMOTE) (not .Values.existingSecret) }}
{{- fail "replicas.enabled: a replica clones secrets.CFP_DATA_REMOTE, in an existingSecret or here" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
{{- fail "ingress.host: required where ingress.enabled" }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.parentRefs: required where httpRoute.enabled" }}
{{- end }}
{{- end }}
