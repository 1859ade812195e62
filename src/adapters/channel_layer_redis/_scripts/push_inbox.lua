-- Put messages into an inbox: into its stream if an owner holds the lease, else into a queue that is popped.
-- KEYS  1 lease (hash: g generation, b serial, f flushed, n<channel> unread)  2 stream  3 queue  4 signal
--       and if they go to members of a group: 5 unread (see push_queue.lua)
-- ARGV  1 expiry in ms  2 clock offset in ms  3 inbox capacity  4 lifetime of 5 in ms
--       5... for each message: capacity, frame (its channel after two bytes)
-- Returns for each message (not in an array if there is one) how many expired messages made room, or -1 minus that
-- number if it is full; nil if an earlier message to this member has expired unread, and another expiry has passed, so
-- that it is no member any more.
-- An entry is 8 bytes of time (ms, to the microsecond) and a frame; a shorter one is not ours, and must block nothing.
local alone = #ARGV == 6
local replies = not alone and {}
if redis.call('HEXISTS', KEYS[1], 'g') == 1 then
  local room = tonumber(ARGV[3]) - redis.call('XLEN', KEYS[2]) -- first: after an error here nothing has been counted
  for place = 5, #ARGV, 2 do
    local frame, reply = ARGV[place + 1], -1
    if room > 0 then
      local count = 'n' .. string.sub(frame, 3, 2 + string.byte(frame, 2))
      local unread = redis.pcall('HINCRBY', KEYS[1], count, 1)
      if type(unread) == 'table' then -- refused
        if not string.find(unread.err, 'integer') and not string.find(unread.err, 'overflow') then return unread end
        redis.call('HSET', KEYS[1], count, 1) -- another program's: it counts anew
        unread = 1
      end
      if unread <= tonumber(ARGV[place]) then
        if not redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', ARGV[2], frame) then
          redis.call('XADD', KEYS[2], '*', ARGV[2], frame)
          redis.call('PEXPIRE', KEYS[2], redis.call('PTTL', KEYS[1]))
        end
        room, reply = room - 1, 0
      elseif redis.call('HINCRBY', KEYS[1], count, -1) <= 0 then
        redis.call('HDEL', KEYS[1], count)
      end
    end
    if alone then return reply end
    replies[#replies + 1] = reply
  end
  return replies
end
if redis.call('EXISTS', KEYS[2]) == 1 then -- only the lease was lost: see deliver.lua
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  if not last or last[2][2] ~= 'l' then redis.call('XADD', KEYS[2], '*', ARGV[2], 'l') end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000 + tonumber(ARGV[2])
local oldest = now - tonumber(ARGV[1])
local function name(frame) return string.sub(frame, 3, 2 + string.byte(frame, 2)) end
local function push(capacity, frame)
  if KEYS[5] then
    if redis.call('TYPE', KEYS[5]).ok ~= 'hash' then redis.call('DEL', KEYS[5]) end
    local since = tonumber(redis.call('HGET', KEYS[5], name(frame)) or '')
    if since and since > 0 and since <= oldest - tonumber(ARGV[1]) then return false end
  end
  local expired = 0
  if redis.call('LLEN', KEYS[3]) >= capacity then
    while true do
      local head = redis.call('LINDEX', KEYS[3], 0)
      if not head or (#head >= 8 and math.abs(struct.unpack('>d', head)) > oldest) then break end
      redis.call('LPOP', KEYS[3])
      expired = expired + 1
    end
    if redis.call('LLEN', KEYS[3]) >= capacity then return -1 - expired end
  end
  redis.call('RPUSH', KEYS[3], struct.pack('>d', now) .. frame)
  redis.call('PEXPIRE', KEYS[3], ARGV[1])
  local signals = redis.pcall('LLEN', KEYS[4])
  if signals ~= 1 then
    if signals ~= 0 then redis.call('DEL', KEYS[4]) end -- another program has written it
    redis.call('RPUSH', KEYS[4], '1')
  end
  redis.call('PEXPIRE', KEYS[4], ARGV[1])
  if KEYS[5] and redis.call('HSETNX', KEYS[5], name(frame), string.format('%.0f', now)) == 1 then
    redis.call('PEXPIRE', KEYS[5], ARGV[4])
  end
  return expired
end
if alone then return push(tonumber(ARGV[5]), ARGV[6]) end
for place = 5, #ARGV, 2 do replies[#replies + 1] = push(tonumber(ARGV[place]), ARGV[place + 1]) end
return replies
