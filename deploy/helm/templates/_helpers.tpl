{{/*
The name of all objects. The release's name comes last, because the Service's name becomes the job, and the alerts
select jobs that begin with sitecore-cdp.
*/}}
{{- define "exporter.name" -}}
{{- $name := ternary .Release.Name (printf "sitecore-cdp-%s" .Release.Name) (hasPrefix "sitecore-cdp" .Release.Name) -}}
{{- .Values.fullnameOverride | default $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "exporter.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "exporter.labels" -}}
{{ include "exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{- define "exporter.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{/* Whether the chart makes the Secret with the credentials: "true" or nothing. */}}
{{- define "exporter.makesSecret" -}}
{{- $credentials := .Values.credentials -}}
{{- if or $credentials.clientKey $credentials.apiToken -}}
{{- if $credentials.existingSecret -}}
{{- fail "credentials: set existingSecret, or clientKey and apiToken, not both" -}}
{{- end -}}
{{- if not (and $credentials.clientKey $credentials.apiToken) -}}
{{- fail "credentials: set both clientKey and apiToken, or neither" -}}
{{- end -}}
true
{{- end -}}
{{- end -}}

{{- define "exporter.secretName" -}}
{{- .Values.credentials.existingSecret | default (include "exporter.name" .) -}}
{{- end -}}

{{- define "exporter.scheme" -}}
{{- empty (.Values.webConfig).tls_server_config | ternary "http" "https" -}}
{{- end -}}

{{/* Whether error logs are read: "true" or nothing. The exporter's default is that they are. */}}
{{- define "exporter.readsErrorLogs" -}}
{{- if ne (toString (.Values.config.error_logs).enabled) "false" -}}
true
{{- end -}}
{{- end -}}
