{{- define "ferry.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
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
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* The namespace's policy may be `restricted`: this is what it asks of each container. */}}
{{- define "ferry.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ferry.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
# The volume and the mounted secrets are given to this group.
fsGroup: 10001
# Without this every start would go through the whole repository.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
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
And no fewer than the API has for the requests that it handles: its pause, gunicorn's 30 s, and some. */}}
{{- define "ferry.gracePeriod" -}}
{{- max 40 (add (ceil (.Values.settings.CFP_PUSH_TIMEOUT | default "120" | float64)) 30) }}
{{- end }}

{{- /* Where the settings come from; of a name that stands twice the last one counts. */}}
{{- define "ferry.envFrom" -}}
- configMapRef: {name: {{ include "ferry.fullname" . }}}
{{- if .Values.secrets }}
- secretRef: {name: {{ include "ferry.fullname" . }}}
{{- end }}
{{- with .Values.existingSecret }}
- secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{- /* What every container of Ferry's has; called with a dict of root, role, remotes (whether it talks to them). */}}
{{- define "ferry.container" -}}
name: {{ .role }}
image: {{ include "ferry.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext: {{- include "ferry.containerSecurity" .root | nindent 2 }}
envFrom: {{- include "ferry.envFrom" .root | nindent 2 }}
volumeMounts:
  - {name: data, mountPath: /srv/ferry}
  - {name: tmp-{{ .role }}, mountPath: /tmp}
  {{- if and .remotes (include "ferry.sshSecret" .root) }}
  - {name: ssh, mountPath: /etc/ferry/ssh, readOnly: true}
  {{- end }}
  {{- if and .remotes (include "ferry.httpsSecret" .root) }}
  - {name: https, mountPath: /etc/ferry/https, readOnly: true}
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
{{- range $name, $default := dict "CFP_DATA_REMOTE" "" "CFP_REDIS_URL" "6379" "CFP_BROKER_URL" "" }}
{{- $url := get $s $name | default "" }}
{{- $host := "" }}
{{- if contains "://" $url }}{{ $host = (urlParse $url).host }}{{ end }}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" | default (ternary $default "" (ne $host "")) }}
{{- /* The Valkey of another release in this namespace is let through by its labels. */}}
{{- if and $port (not (has $port $open)) (not (regexMatch "-valkey(:[0-9]+)?$" $host)) }}
{{- fail (printf "networkPolicy.egressPorts: lacks %s, the port of secrets.%s" $port $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
{{- fail "ingress.host: required where ingress.enabled" }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.parentRefs: required where httpRoute.enabled" }}
{{- end }}
{{- end }}
