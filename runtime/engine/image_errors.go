package engine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
)

// Sentinels of image handling, to be asked for with errors.Is.
var (
	// ErrImageRef means that a reference or digest cannot be read.
	ErrImageRef = errors.New("not an image reference")
	// ErrImageNotFound means that the registry does not know the image, or
	// hides it from who has no rights to it.
	ErrImageNotFound = errors.New("image not found")
	// ErrUnauthorized means that the registry refused the credentials, or wants
	// some.
	ErrUnauthorized = errors.New("registry refused access")
	// ErrCredentials means that the credentials file cannot be used.
	ErrCredentials = errors.New("credentials file cannot be used")
	// ErrRateLimited means that the registry takes no more requests for now.
	ErrRateLimited = errors.New("registry limits the number of pulls")
	// ErrRegistry means that the registry could not be reached, failed, or
	// broke off again and again. Trying later may help.
	ErrRegistry = errors.New("registry does not deliver")
	// ErrNoSpace means that the disk is full or would be.
	ErrNoSpace = errors.New("not enough disk space")
	// ErrCorruptImage means that what the registry sent is not what its digest
	// says, or is not an image.
	ErrCorruptImage = errors.New("image is corrupt")
	// ErrLeaseName means that a name for a lease has characters that it may not.
	ErrLeaseName = errors.New("not a lease name")
	// ErrPlatform means that the image has no variant for this machine.
	ErrPlatform = errors.New("image is not for this machine")
)

// imageError is one of the sentinels with what, where and what to do.
type imageError struct {
	kind   error
	what   string // "pull docker.io/library/redis:7"
	detail string
	cause  error
}

func (e *imageError) Error() string {
	text := e.what + ": " + e.kind.Error()
	if e.detail != "" {
		text += ": " + e.detail
	}
	return text
}

func (e *imageError) Unwrap() []error {
	if e.cause == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.cause}
}

// statusError is a final answer of a registry after all attempts.
type statusError struct {
	status     int
	host       string
	retryAfter time.Duration // 0: the registry did not say
	attempts   int
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("%s answered %d %s to each of %d attempts", e.host, e.status, http.StatusText(e.status), e.attempts)
	if e.attempts == 1 {
		text = fmt.Sprintf("%s answered %d %s", e.host, e.status, http.StatusText(e.status))
	}
	if e.retryAfter > 0 {
		text += fmt.Sprintf(" and asks to wait %s", e.retryAfter.Round(time.Second))
	}
	return text
}

// connectionError is the failure of the last attempt to reach a registry. It
// has no Unwrap on purpose: the resolver above looks for time-outs and cuts in
// the chain and would repeat what was repeated enough.
type connectionError struct {
	host     string
	attempts int
	cause    error
}

func (e *connectionError) Error() string {
	if e.attempts == 1 {
		return fmt.Sprintf("%s cannot be reached: %v", e.host, e.cause)
	}
	return fmt.Sprintf("%s could not be reached in %d attempts: %v", e.host, e.attempts, e.cause)
}

// queries are what follows the question mark of an address in a message.
// Registries redirect to addresses whose query is a key to the content.
var queries = regexp.MustCompile(`(https?://[^\s"?]*)\?[^\s"]*`)

func redact(text string) string { return queries.ReplaceAllString(text, "$1") }

// classify gives an error of a pull its kind. Cancellation stays what it is.
func classify(what string, err error) error {
	var known *imageError
	if err == nil || errors.As(err, &known) {
		return err
	}
	e := &imageError{what: what, cause: err, detail: redact(err.Error())}
	var (
		final  *statusError
		failed *connectionError
		status remoteerrors.ErrUnexpectedStatus
	)
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", what, err)
	case noSpace(err):
		e.kind = ErrNoSpace
		e.detail = "the engine's file system is full: free some space and pull again"
	case errors.Is(err, ErrCredentials):
		e.kind = ErrCredentials
		_, e.detail, _ = strings.Cut(e.detail, ErrCredentials.Error()+": ")
	case errors.As(err, &final):
		e.kind, e.detail = ErrRegistry, final.Error()
		if final.status == http.StatusTooManyRequests {
			e.kind = ErrRateLimited
			e.detail += "; a login in the credentials file usually raises the limit"
		}
	case errors.As(err, &failed):
		e.kind, e.detail = ErrRegistry, redact(failed.Error())
	case errors.As(err, &status):
		e.kind = ErrRegistry
		e.detail = redact(status.Error())
		switch status.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			e.kind = ErrUnauthorized
			e.detail += "; is the name right, and is the login in the credentials file?"
		case http.StatusNotFound:
			e.kind = ErrImageNotFound
		case http.StatusRequestedRangeNotSatisfiable:
			// Asked for the rest of a layer of which there is no rest.
			e.kind = ErrCorruptImage
			e.detail = "a layer is shorter than the manifest says"
		}
	case errors.Is(err, docker.ErrInvalidAuthorization):
		e.kind = ErrUnauthorized
		e.detail = "is the name right, and is the login in the credentials file?"
	case errdefs.IsNotFound(err):
		e.kind = ErrImageNotFound
		e.detail = "is the name right? The registry does not know it"
	default:
		e.kind = ErrRegistry
	}
	return e
}

// noSpace recognises a full disk. An external containerd sends errors as text,
// so the words decide there.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		strings.Contains(err.Error(), "no space left on device") ||
		strings.Contains(err.Error(), "disk quota exceeded")
}

// hopeless says that a failed connection fails the next time too.
func hopeless(err error) bool {
	var failed *connectionError
	if !errors.As(err, &failed) {
		return false
	}
	err = failed.cause
	var (
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
	)
	return errors.As(err, &certificate) || errors.As(err, &record) || errors.As(err, &authority) || errors.As(err, &hostname)
}
