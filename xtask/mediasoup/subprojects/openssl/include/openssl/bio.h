/*
 * Stands before the system's <openssl/bio.h>.
 *
 * Workers from 3.13 on watch the BIO that their DTLS is written to. Their callback compares the
 * operation with BIO_CB_RETURN, but that is a flag: a finished operation is `BIO_CB_RETURN | what`
 * (BIO_set_callback(3)). So the callback answers 1 for each finished operation, whatever its result
 * was. Debian builds OpenSSL with kernel TLS, which asks the BIO whether the kernel encrypts what it
 * sends, takes that 1 for a yes, sets up no write buffer, and the first handshake ends in SIGSEGV.
 * Here the callback is called as always, but a finished operation keeps its result.
 */
#ifndef MEDIASOUP_EXPORTER_BIO_H
#define MEDIASOUP_EXPORTER_BIO_H

#include_next <openssl/bio.h>

#ifdef __cplusplus
template<BIO_callback_fn_ex Callback>
long bio_callback_keeping_results(
  BIO* bio,
  int operation,
  const char* data,
  size_t length,
  int argi,
  long argl,
  int result,
  size_t* processed)
{
	const long answer = Callback(bio, operation, data, length, argi, argl, result, processed);

	return (operation & BIO_CB_RETURN) != 0 ? static_cast<long>(result) : answer;
}

#define BIO_set_callback_ex(bio, callback)                                                         \
	(BIO_set_callback_ex)((bio), bio_callback_keeping_results<(callback)>)
#endif

#endif
