package artifact

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"

	"github.com/pantala/pantala/blob"
)

// Statement is what a signature says: in the image with this manifest the layer with this digest, of as many stored
// bytes, has the index with this root and digest.
type Statement struct {
	Manifest blob.Hash
	Layer    blob.Hash
	Stored   int64 // length of the stored layer in bytes
	Root     blob.Hash
	Index    blob.Hash
}

// context keeps signatures from meaning anything else that the same key signs.
const context = "pantala-index-signature-v1\x00"

// bytes are what is signed, always as long: the context, then the fields in their order, Stored as 8 bytes, big endian.
func (s Statement) bytes() []byte {
	b := append([]byte(context), s.Manifest[:]...)
	b = append(b, s.Layer[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Stored))
	b = append(b, s.Root[:]...)
	return append(b, s.Index[:]...)
}

// Sign is the signature (Ed25519, RFC 8032) in base64.
func (s Statement) Sign(key ed25519.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(ed25519.Sign(key, s.bytes()))
}

// Keys are those whose word counts.
type Keys []ed25519.PublicKey

// Verify reports whether one of them has signed s.
func (k Keys) Verify(s Statement, signature string) bool {
	raw, err := base64.StdEncoding.Strict().DecodeString(signature)
	if err != nil || len(raw) != ed25519.SignatureSize {
		return false
	}
	for _, key := range k {
		if ed25519.Verify(key, s.bytes(), raw) {
			return true
		}
	}
	return false
}

const (
	privateBlock = "PRIVATE KEY" // PKCS #8, RFC 5958
	publicBlock  = "PUBLIC KEY"  // SubjectPublicKeyInfo, RFC 5280
)

// NewKey makes a key pair, as PEM: what openssl genpkey -algorithm ed25519 makes as well.
func NewKey() (private, public []byte, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: spki}), nil
}

// ParsePrivate reads a private key. No error shows a byte of it.
func ParsePrivate(text []byte) (ed25519.PrivateKey, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != privateBlock {
		return nil, fmt.Errorf("%w: not a private key (PEM, PKCS #8): make one with pantala image key FILE", blob.ErrInvalid)
	}
	any, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	key, ok := any.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%w: not a private key of Ed25519: make one with pantala image key FILE", blob.ErrInvalid)
	}
	return key, nil
}

// ParsePublic reads a public key.
func ParsePublic(text []byte) (ed25519.PublicKey, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != publicBlock {
		return nil, fmt.Errorf("%w: not a public key (PEM, FILE.pub of pantala image key FILE)", blob.ErrInvalid)
	}
	any, err := x509.ParsePKIXPublicKey(b.Bytes)
	key, ok := any.(ed25519.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%w: not a public key of Ed25519", blob.ErrInvalid)
	}
	return key, nil
}
