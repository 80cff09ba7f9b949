package registry

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"unicode"
)

// explainer puts what a server of a registry says into words that say what to do. l is how it was logged in to, nil
// when a header of hosts.toml does it.
func explainer(s *server, l *login) func(*http.Response, error) string {
	return func(resp *http.Response, err error) string {
		if err != nil {
			return explainTransport(s, err)
		}
		said := spoken(resp)
		if said != "" {
			said = " (" + said + ")"
		}
		switch resp.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			if l == nil {
				return "the Authorization header that is configured for it is refused" + said
			}
			return l.advice("no credentials for it are known, or there is no such repository") + said
		case http.StatusNotFound:
			return "no such tag, digest or repository at " + s.name() + said
		case http.StatusTooManyRequests:
			return "or log in, which raises the limit of most registries: docker login " + s.account + said
		case http.StatusBadRequest:
			if s.base.Scheme == "http" && strings.Contains(strings.ToLower(said), "https server") {
				return "it speaks https only: write server = \"https://" + s.base.Host + "\" into a hosts.toml" + said
			}
		}
		if said != "" && resp.StatusCode >= 500 {
			return "or ask its operator" + said
		}
		if said != "" {
			return "the registry refuses it" + said
		}
		return ""
	}
}

func explainTransport(s *server, err error) string {
	var (
		cert *tls.CertificateVerificationError
		rec  tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &cert):
		return "if the registry's own authority is to be trusted, name its certificate with --cacert, or as ca = \"…\" in the hosts.toml of " + s.base.Host
	case errors.As(err, &rec), errors.Is(err, http.ErrSchemeMismatch):
		return "if the registry is to be spoken to without encryption, add --plain-http " + s.base.Host
	case s.base.Scheme == "http" && strings.Contains(err.Error(), "malformed HTTP"):
		return "it may speak https only: write server = \"https://" + s.base.Host + "\" into a hosts.toml"
	}
	return ""
}

// spoken is the first error in a body as the distribution specification has them (section "Error Codes"), made fit
// for one line of text; "" when there is none.
func spoken(resp *http.Response) string {
	if resp.Body == nil {
		return ""
	}
	p, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10))
	var e struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	text := ""
	if json.Unmarshal(p, &e) == nil && len(e.Errors) > 0 {
		text = strings.TrimSpace(e.Errors[0].Code + " " + e.Errors[0].Message)
	} else if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") || len(p) < 200 && !strings.ContainsAny(string(p), "<{") {
		text = strings.TrimSpace(string(p))
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, " "))
	return clip(text)
}
