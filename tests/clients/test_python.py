"""Streams, functions, schemas and the Responses API through Python clients, each in the words of its own manual."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.clients.conftest import House
from tests.clients.upstream import ANSWER, THOUGHT, VECTOR

pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed; make clients")

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

QUESTION = "Weather in Rome?"
ASK: list[Any] = [{"role": "user", "content": QUESTION}]
BOTH: list[Any] = [{"role": "user", "content": "Weather in both Rome and Oslo?"}]
PLACES = ["Rome", "Oslo"]


def client(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed; make clients", exc_type=ImportError)


class City(pydantic.BaseModel):  # type: ignore[name-defined, misc]
    """A city."""

    name: str
    people: int


def weather(place: str) -> str:
    """The weather of a place.

    Args:
        place: where.
    """
    asked.append(place)
    return "sunny"


asked: list[str] = []
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


@pytest.fixture(autouse=True)
def nothing_asked() -> None:
    asked.clear()


def carried_out(house: House) -> list[str]:
    """Places of the calls that the last body answers, in the order in which the model wrote them.

    Clients run calls at once, so the order in which their functions happen to run says nothing.
    """
    messages = house.upstream.asked[-1]["messages"]
    answered = {message["tool_call_id"] for message in messages if message["role"] == "tool"}
    calls = [call for message in messages for call in message.get("tool_calls") or () if call["id"] in answered]
    assert sorted(asked) == sorted(PLACES)
    return [json.loads(call["function"]["arguments"])["place"] for call in calls]


# --- openai -----------------------------------------------------------------------------------------------------------


def openai(house: House) -> Any:
    return client("openai").OpenAI(base_url=house.url, api_key="none", max_retries=0)


def test_openai_chats_and_streams(house: House) -> None:
    message = openai(house).chat.completions.create(model="selfroute", messages=ASK).choices[0].message
    assert (message.content, message.reasoning_content) == (ANSWER, THOUGHT)
    with openai(house).chat.completions.stream(
        model="gpt-5", messages=ASK, stream_options={"include_usage": True}
    ) as events:
        list(events)
        final = events.get_final_completion()
    assert final.choices[0].message.content == ANSWER and final.usage.total_tokens == 19


def test_openai_calls_functions_and_goes_on(house: House) -> None:
    completions, tools = openai(house).chat.completions, [WEATHER]
    whole = completions.create(model="m", messages=BOTH, tools=tools, parallel_tool_calls=True).choices[0]
    with completions.stream(model="m", messages=BOTH, tools=tools) as events:
        list(events)
        streamed = events.get_final_completion().choices[0]
    for choice in (whole, streamed):
        assert choice.finish_reason == "tool_calls"
        calls = [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls]
        assert calls == [(f"call_{at}", "weather", f'{{"place": "{place}"}}') for at, place in enumerate(PLACES)]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in whole.message.tool_calls]
    history = [*BOTH, whole.message.model_dump(), *results]
    assert completions.create(model="m", messages=history, tools=tools).choices[0].message.content == ANSWER
    assert "tool_call_id" in house.upstream.asked[-1]["messages"][-1]


@pytest.mark.parametrize("choice", ["auto", "none", "required", {"type": "function", "function": {"name": "weather"}}])
def test_openai_chooses_among_functions(house: House, choice: Any) -> None:
    openai(house).chat.completions.create(model="m", messages=ASK, tools=[WEATHER], tool_choice=choice)
    assert house.upstream.asked[-1]["tool_choice"] == choice


def test_openai_fills_in_a_schema(house: House) -> None:
    answer = openai(house).chat.completions.parse(model="m", messages=ASK, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Rome", people=3)
    parsed = openai(house).responses.parse(model="m", input=QUESTION, text_format=City)
    assert parsed.output_parsed == City(name="Rome", people=3)


def test_openai_asks_by_responses(house: House) -> None:
    responses, tool = openai(house).responses, {"type": "function", "strict": False, **WEATHER["function"]}
    assert responses.create(model="m", input=QUESTION, instructions="Be brief.").output_text == ANSWER
    with responses.stream(model="m", input=ASK) as events:
        kinds = [event.type for event in events]
        assert events.get_final_response().output_text == ANSWER
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    first = responses.create(model="m", input=BOTH, tools=[tool])
    calls = [item for item in first.output if item.type == "function_call"]
    assert [call.arguments for call in calls] == [f'{{"place": "{place}"}}' for place in PLACES]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
    again = responses.create(model="m", input=[*BOTH, *first.output, *results], tools=[tool])
    assert again.output_text == ANSWER


def test_openai_lists_models_and_makes_vectors(house: House) -> None:
    assert "selfroute" in [model.id for model in openai(house).models.list()]
    assert openai(house).models.retrieve("gpt-5").id == "gpt-5"
    assert openai(house).embeddings.create(model="e", input=["a", "b"]).data[1].embedding == VECTOR


def test_openai_is_told_of_a_conversation_that_is_too_long(house: House) -> None:
    package = client("openai")
    long = [{"role": "user", "content": "x" * 200_000}]
    for fields in ({}, {"stream": True}):
        with pytest.raises(package.BadRequestError) as caught:
            openai(house).chat.completions.create(model="m", messages=long, **fields)
        assert caught.value.code == "context_length_exceeded"


async def test_openai_many_at_once(house: House) -> None:
    import asyncio

    async with client("openai").AsyncOpenAI(base_url=house.url, api_key="none", max_retries=0) as many:
        asked = (many.chat.completions.create(model="m", messages=ASK) for _ in range(8))
        answers = await asyncio.gather(*asked)
    assert [answer.choices[0].message.content for answer in answers] == [ANSWER] * 8


# --- LiteLLM ----------------------------------------------------------------------------------------------------------


def test_litellm(house: House) -> None:
    litellm = client("litellm")
    options: dict[str, Any] = {"model": "openai/selfroute", "api_base": house.url, "api_key": "none"}
    pieces = litellm.completion(**options, messages=ASK, stream=True, stream_options={"include_usage": True})
    chunks = list(pieces)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert litellm.stream_chunk_builder(chunks).usage.total_tokens == 19
    called = litellm.completion(**options, messages=BOTH, tools=[WEATHER]).choices[0]
    assert [call.function.name for call in called.message.tool_calls] == ["weather"] * 2
    history = [*BOTH, called.message.model_dump()]
    history += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in called.message.tool_calls]
    assert litellm.completion(**options, messages=history, tools=[WEATHER]).choices[0].message.content == ANSWER
    filled = litellm.completion(**options, messages=ASK, response_format=City).choices[0].message.content
    assert City.model_validate_json(filled) == City(name="Rome", people=3)
    said = [part.text for item in litellm.responses(**options, input=QUESTION).output for part in item.content or []]
    assert ANSWER in said
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**options, messages=[{"role": "user", "content": "x" * 200_000}], max_retries=0)


# --- LangChain --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_responses", [False, True])
def test_langchain(house: House, by_responses: bool) -> None:
    package = client("langchain_openai")
    model = package.ChatOpenAI(
        base_url=house.url,
        api_key="none",
        model="selfroute",
        use_responses_api=by_responses,
        stream_usage=True,
        max_retries=0,
    )
    assert model.invoke(QUESTION).text == ANSWER
    pieces = list(model.stream(QUESTION))
    assert "".join(piece.text for piece in pieces) == ANSWER
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole + piece
    assert whole.usage_metadata["total_tokens"] == 19
    called = model.bind_tools([weather]).invoke(BOTH)
    assert [call["args"]["place"] for call in called.tool_calls] == PLACES
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in called.tool_calls]
    assert model.bind_tools([weather]).invoke([*BOTH, called, *results]).text == ANSWER
    for method in ("function_calling", "json_schema"):
        assert model.with_structured_output(City, method=method).invoke(QUESTION) == City(name="Rome", people=3)


def test_langchain_makes_vectors(house: House) -> None:
    package = client("langchain_openai")
    embeddings = package.OpenAIEmbeddings(
        base_url=house.url, api_key="none", model="e", check_embedding_ctx_length=False
    )
    assert embeddings.embed_documents(["a", "b"]) == [VECTOR, VECTOR]


# --- LlamaIndex -------------------------------------------------------------------------------------------------------


def test_llama_index(house: House) -> None:
    package = client("llama_index.llms.openai_like")
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool

    model = package.OpenAILike(
        api_base=house.url, api_key="none", model="selfroute", is_chat_model=True, is_function_calling_model=True
    )
    messages = [ChatMessage(role="user", content=QUESTION)]
    assert model.chat(messages).message.content == ANSWER
    assert "".join(piece.delta or "" for piece in model.stream_chat(messages)) == ANSWER
    tool = FunctionTool.from_defaults(weather)
    called = model.chat_with_tools([tool], user_msg=BOTH[0]["content"], allow_parallel_tool_calls=True)
    assert [call.tool_kwargs["place"] for call in model.get_tool_calls_from_response(called)] == PLACES
    assert model.as_structured_llm(City).chat(messages).raw == City(name="Rome", people=3)


# --- Instructor -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "JSON_SCHEMA"])
def test_instructor(house: House, mode: str) -> None:
    instructor = client("instructor")
    model = instructor.from_openai(openai(house), mode=instructor.Mode[mode])
    city = model.chat.completions.create(model="m", response_model=City, messages=ASK)
    assert city.model_dump() == {"name": "Rome", "people": 3}
    growing = model.chat.completions.create_partial(model="m", response_model=City, messages=ASK)
    assert list(growing)[-1].people == 3


# --- Pydantic AI ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["OpenAIChatModel", "OpenAIResponsesModel"])
async def test_pydantic_ai(house: House, kind: str) -> None:
    package = client("pydantic_ai")
    from pydantic_ai.models import openai as models
    from pydantic_ai.providers.openai import OpenAIProvider

    model = getattr(models, kind)("selfroute", provider=OpenAIProvider(base_url=house.url, api_key="none"))
    agent = package.Agent(model, tools=[weather])
    assert (await agent.run(BOTH[0]["content"])).output == ANSWER and carried_out(house) == PLACES
    async with package.Agent(model).run_stream(QUESTION) as stream:
        assert [text async for text in stream.stream_text()][-1] == ANSWER
    assert (await package.Agent(model, output_type=City).run(QUESTION)).output == City(name="Rome", people=3)


# --- OpenAI Agents SDK ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["OpenAIChatCompletionsModel", "OpenAIResponsesModel"])
async def test_openai_agents(house: House, kind: str) -> None:
    agents = client("agents")
    agents.set_tracing_disabled(True)
    async with client("openai").AsyncOpenAI(base_url=house.url, api_key="none") as inner:
        model = getattr(agents, kind)(model="selfroute", openai_client=inner)
        agent = agents.Agent(name="guide", model=model, tools=[agents.function_tool(weather)])
        assert (await agents.Runner.run(agent, BOTH[0]["content"])).final_output == ANSWER
        assert carried_out(house) == PLACES
        streamed = agents.Runner.run_streamed(agent, QUESTION)
        kinds = {event.type async for event in streamed.stream_events()}
        assert streamed.final_output == ANSWER and "raw_response_event" in kinds
        shaped = agents.Agent(name="guide", model=model, output_type=City)
        assert (await agents.Runner.run(shaped, QUESTION)).final_output == City(name="Rome", people=3)


# --- smolagents -------------------------------------------------------------------------------------------------------


def test_smolagents(house: House) -> None:
    package = client("smolagents")
    model = package.OpenAIModel(model_id="selfroute", api_base=house.url, api_key="none")
    pieces = model.generate_stream([package.models.ChatMessage(role="user", content=QUESTION)])
    assert "".join(piece.content or "" for piece in pieces) == ANSWER
    agent = package.ToolCallingAgent(tools=[package.tool(weather)], model=model, max_steps=3, verbosity_level=0)
    assert agent.run(QUESTION) == "Rome" and asked == ["Rome"]


# --- DSPy -------------------------------------------------------------------------------------------------------------


def test_dspy(house: House) -> None:
    dspy = client("dspy")
    lm = dspy.LM("openai/selfroute", api_base=house.url, api_key="none", cache=False)
    with dspy.context(lm=lm):
        assert dspy.Predict("question -> answer")(question=QUESTION).answer == ANSWER


# --- Haystack ---------------------------------------------------------------------------------------------------------


def test_haystack(house: House) -> None:
    generators = client("haystack.components.generators.chat")
    from haystack.dataclasses import ChatMessage
    from haystack.tools import create_tool_from_function
    from haystack.utils import Secret

    tool = create_tool_from_function(weather)
    seen: list[str] = []
    options = {"api_base_url": house.url, "api_key": Secret.from_token("none"), "model": "selfroute"}
    plain = generators.OpenAIChatGenerator(**options, streaming_callback=lambda chunk: seen.append(chunk.content))
    (reply,) = plain.run([ChatMessage.from_user(QUESTION)])["replies"]
    assert reply.text == "".join(seen) == ANSWER
    (called,) = generators.OpenAIChatGenerator(**options, tools=[tool]).run(
        [ChatMessage.from_user(BOTH[0]["content"])]
    )["replies"]
    assert [call.arguments["place"] for call in called.tool_calls] == PLACES
    results = [ChatMessage.from_tool("sunny", origin=call) for call in called.tool_calls]
    (last,) = generators.OpenAIChatGenerator(**options, tools=[tool]).run(
        [ChatMessage.from_user(BOTH[0]["content"]), called, *results]
    )["replies"]
    assert last.text == ANSWER


# --- llm --------------------------------------------------------------------------------------------------------------


def test_llm(house: House) -> None:
    package = client("llm")
    from llm.default_plugins.openai_models import Chat

    model = Chat("selfroute", model_name="m", api_base=house.url, key="none", supports_tools=True, supports_schema=True)
    assert model.prompt(QUESTION, stream=False).text() == "".join(model.prompt(QUESTION)) == ANSWER
    chain = model.chain(BOTH[0]["content"], tools=[package.Tool.function(weather)])
    assert chain.text() == ANSWER and carried_out(house) == PLACES
    assert City.model_validate_json(model.prompt(QUESTION, schema=City).text()) == City(name="Rome", people=3)
