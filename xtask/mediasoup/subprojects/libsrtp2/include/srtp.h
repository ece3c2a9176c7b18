/*
 * Stands before the system's libsrtp 2.x header.
 *
 * Workers from 3.14 on are written for libsrtp's next interface, where lengths are size_t and
 * streams are removed by srtp_stream_remove(). These overloads translate; code that still passes an
 * int* finds the system's own functions.
 */
#ifndef MEDIASOUP_EXPORTER_SRTP_H
#define MEDIASOUP_EXPORTER_SRTP_H

#include <srtp2/srtp.h>

#ifdef __cplusplus
#include <cstddef>
#include <cstdint>

template<typename Function>
inline srtp_err_status_t srtp_with_int_length(
  Function function, srtp_t session, void* packet, size_t* length)
{
	/* A packet is at most 64 KiB long, so no value is cut. */
	int converted                  = static_cast<int>(*length);
	const srtp_err_status_t status = function(session, packet, &converted);

	*length = static_cast<size_t>(converted);

	return status;
}

inline srtp_err_status_t srtp_protect(srtp_t session, void* packet, size_t* length)
{
	using Function = srtp_err_status_t (*)(srtp_t, void*, int*);
	return srtp_with_int_length(static_cast<Function>(::srtp_protect), session, packet, length);
}

inline srtp_err_status_t srtp_unprotect(srtp_t session, void* packet, size_t* length)
{
	using Function = srtp_err_status_t (*)(srtp_t, void*, int*);
	return srtp_with_int_length(static_cast<Function>(::srtp_unprotect), session, packet, length);
}

inline srtp_err_status_t srtp_protect_rtcp(srtp_t session, void* packet, size_t* length)
{
	using Function = srtp_err_status_t (*)(srtp_t, void*, int*);
	return srtp_with_int_length(static_cast<Function>(::srtp_protect_rtcp), session, packet, length);
}

inline srtp_err_status_t srtp_unprotect_rtcp(srtp_t session, void* packet, size_t* length)
{
	using Function = srtp_err_status_t (*)(srtp_t, void*, int*);
	return srtp_with_int_length(static_cast<Function>(::srtp_unprotect_rtcp), session, packet, length);
}

inline srtp_err_status_t srtp_stream_remove(srtp_t session, uint32_t ssrc)
{
	return srtp_remove_stream(session, ssrc);
}
#endif

#endif
