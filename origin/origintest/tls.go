package origintest

import (
	"encoding/pem"
	"io"
	"log"
	"os"
	"path/filepath"
)

// CertPEM writes the certificate of a TLS server to a file and returns its path, for origin.Options.CACert.
func (s *Server) CertPEM() string {
	s.tb.Helper()
	path := filepath.Join(s.tb.TempDir(), "ca.pem")
	p := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(path, p, 0o600); err != nil {
		s.tb.Fatal(err)
	}
	return path
}

// quiet takes what net/http would print about handshakes that a test lets fail.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
