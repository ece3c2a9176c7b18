/*
 * The names of ankerl::unordered_dense that workers use, for the standard library's containers. They
 * are slower, and every iterator and reference that stays valid in the original stays valid here.
 */
#ifndef MEDIASOUP_EXPORTER_UNORDERED_DENSE_H
#define MEDIASOUP_EXPORTER_UNORDERED_DENSE_H

#include <functional>
#include <unordered_map>
#include <unordered_set>

namespace ankerl::unordered_dense
{
	template<typename Key>
	using hash = std::hash<Key>;

	template<typename Key, typename Value, typename Hash = std::hash<Key>>
	using map = std::unordered_map<Key, Value, Hash>;

	template<typename Key, typename Hash = std::hash<Key>>
	using set = std::unordered_set<Key, Hash>;
}

#endif
