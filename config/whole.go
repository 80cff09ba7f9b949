package config

import (
	"strconv"
	"strings"
)

// Whole are the settings that belong to a whole node and not to one mount: whoever starts a daemon hands them on,
// and a command that names one is refused by a daemon that runs with another. The values have the form that the
// flag of the same name takes.
func (c Config) Whole() map[string]string {
	return map[string]string{
		"listen":         c.Listen,
		"quota":          strconv.FormatInt(c.Quota, 10),
		"memory":         strconv.FormatInt(c.Memory, 10),
		"zone":           c.Zone,
		"upload-limit":   strconv.FormatInt(c.UploadLimit, 10),
		"download-limit": strconv.FormatInt(c.DownloadLimit, 10),
		"origin-limit":   strconv.FormatInt(c.OriginLimit, 10),
		"role":           c.Role,
		"compress":       onOffWord(c.Compress),
		"pex":            onOffWord(c.PEX),
		"lsd":            c.LSD,
		"dht":            onOffWord(c.DHT),
		"dht-bootstrap":  strings.Join(c.Bootstrap, ","),
		"plain-http":     strings.Join(c.PlainHTTP, ","),
		"certs-dir":      c.CertsDir,
		"docker-config":  c.DockerConfig,
		"image-mount":    c.ImageMount,
		"index-keys":     strings.Join(c.IndexKeys, ","),
	}
}

func onOffWord(on bool) string {
	if on {
		return On
	}
	return Off
}
