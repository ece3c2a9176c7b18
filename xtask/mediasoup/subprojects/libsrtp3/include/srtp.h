/*
 * The interface of libsrtp 3.0, as far as workers use it, over the system's libsrtp 2.x.
 *
 * What differs: a policy is an object behind a pointer, made and filled by functions, where 2.x has
 * a struct that the caller fills; packets are encrypted from one buffer into another, where 2.x
 * works in place; lengths are size_t. Master keys with an MKI are turned down: workers have none.
 */
#ifndef MEDIASOUP_EXPORTER_SRTP3_H
#define MEDIASOUP_EXPORTER_SRTP3_H

/* The name means something else in 3.0. */
#define srtp_policy_t srtp2_policy_t
#include <srtp2/srtp.h>
#undef srtp_policy_t

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

/* Added by 3.0; 2.x ends at 27. */
constexpr srtp_err_status_t srtp_err_status_buffer_small = static_cast<srtp_err_status_t>(28);
constexpr srtp_err_status_t srtp_err_status_cryptex_err  = static_cast<srtp_err_status_t>(29);

/* What a worker hands from one policy function to the next. */
struct srtp3_policy
{
	srtp2_policy_t policy{};
	/* Master key and salt, one after the other, as 2.x wants them. */
	uint8_t key[SRTP_MAX_KEY_LEN]{};
};

using srtp_policy_t = srtp3_policy*;

inline srtp_err_status_t srtp_policy_create(srtp_policy_t* policy)
{
	*policy = new (std::nothrow) srtp3_policy();

	return *policy ? srtp_err_status_ok : srtp_err_status_alloc_fail;
}

inline void srtp_policy_destroy(srtp_policy_t policy)
{
	delete policy;
}

inline srtp_err_status_t srtp_policy_set_ssrc(srtp_policy_t policy, srtp_ssrc_t ssrc)
{
	policy->policy.ssrc = ssrc;

	return srtp_err_status_ok;
}

inline srtp_err_status_t srtp_policy_set_profile(srtp_policy_t policy, srtp_profile_t profile)
{
	const srtp_err_status_t status =
	  srtp_crypto_policy_set_from_profile_for_rtp(&policy->policy.rtp, profile);

	if (status != srtp_err_status_ok)
	{
		return status;
	}

	return srtp_crypto_policy_set_from_profile_for_rtcp(&policy->policy.rtcp, profile);
}

inline srtp_err_status_t srtp_policy_add_key(
  srtp_policy_t policy,
  const uint8_t* key,
  size_t key_length,
  const uint8_t* salt,
  size_t salt_length,
  const uint8_t* mki,
  size_t mki_length)
{
	const bool is_second = policy->policy.key != nullptr;

	if (is_second || mki || mki_length > 0 || key_length + salt_length > sizeof(policy->key))
	{
		return srtp_err_status_bad_param;
	}

	std::memcpy(policy->key, key, key_length);
	std::memcpy(policy->key + key_length, salt, salt_length);
	policy->policy.key = policy->key;

	return srtp_err_status_ok;
}

inline srtp_err_status_t srtp_policy_set_window_size(srtp_policy_t policy, size_t size)
{
	policy->policy.window_size = size;

	return srtp_err_status_ok;
}

inline srtp_err_status_t srtp_policy_set_allow_repeat_tx(srtp_policy_t policy, bool allow)
{
	policy->policy.allow_repeat_tx = allow ? 1 : 0;

	return srtp_err_status_ok;
}

/* 2.x copies what it needs of the policy, the key among it. */
inline srtp_err_status_t srtp_create(srtp_t* session, srtp_policy_t policy)
{
	const srtp2_policy_t* settings = &policy->policy;

	return srtp_create(session, settings);
}

/* Copies the packet to where it shall be and lets 2.x work there; `growth` is what it may add. */
template<typename Function>
inline srtp_err_status_t srtp3_in_place(
  Function function, srtp_t session, const uint8_t* from, size_t length, uint8_t* to, size_t* to_length, size_t growth)
{
	if (length + growth > *to_length)
	{
		return srtp_err_status_buffer_small;
	}

	std::memmove(to, from, length);

	/* A packet is at most 64 KiB long, so no value is cut. */
	int changed                    = static_cast<int>(length);
	const srtp_err_status_t status = function(session, to, &changed);

	*to_length = static_cast<size_t>(changed);

	return status;
}

using srtp2_function = srtp_err_status_t (*)(srtp_t, void*, int*);

inline srtp_err_status_t srtp_protect(
  srtp_t session, const uint8_t* rtp, size_t length, uint8_t* srtp, size_t* srtp_length, size_t mki_index)
{
	const auto function = static_cast<srtp2_function>(::srtp_protect);

	return mki_index > 0
	         ? srtp_err_status_bad_mki
	         : srtp3_in_place(function, session, rtp, length, srtp, srtp_length, SRTP_MAX_TAG_LEN);
}

inline srtp_err_status_t srtp_unprotect(
  srtp_t session, const uint8_t* srtp, size_t length, uint8_t* rtp, size_t* rtp_length)
{
	const auto function = static_cast<srtp2_function>(::srtp_unprotect);

	return srtp3_in_place(function, session, srtp, length, rtp, rtp_length, 0);
}

/* SRTCP has a word with the packet's index, too (RFC 3711 section 3.4). */
inline srtp_err_status_t srtp_protect_rtcp(
  srtp_t session, const uint8_t* rtcp, size_t length, uint8_t* srtcp, size_t* srtcp_length, size_t mki_index)
{
	const auto function = static_cast<srtp2_function>(::srtp_protect_rtcp);

	return mki_index > 0
	         ? srtp_err_status_bad_mki
	         : srtp3_in_place(
	             function, session, rtcp, length, srtcp, srtcp_length, SRTP_MAX_TAG_LEN + sizeof(uint32_t));
}

inline srtp_err_status_t srtp_unprotect_rtcp(
  srtp_t session, const uint8_t* srtcp, size_t length, uint8_t* rtcp, size_t* rtcp_length)
{
	const auto function = static_cast<srtp2_function>(::srtp_unprotect_rtcp);

	return srtp3_in_place(function, session, srtcp, length, rtcp, rtcp_length, 0);
}

inline srtp_err_status_t srtp_stream_remove(srtp_t session, uint32_t ssrc)
{
	return srtp_remove_stream(session, ssrc);
}

#endif
